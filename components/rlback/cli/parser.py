"""Verbs, options and how an error is shown. Nothing heavy is imported here: `--help` answers at once."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rlback import __version__
from rlback.cli.label_verbs import add_export, add_label_verbs
from rlback.errors import ConfigError, RlbackError
from rlback.records import REASON_CHARS

EPILOG = """\
start here:  rlback demo                 the whole loop on a controlled world, about three minutes
             rlback run CONFIG           a campaign on your own preferences
every day:   rlback status               what waits for whom
             rlback label                label comparisons
             rlback gate show            the evidence; then approve, decline or more-labels
             rlback advance              carry campaigns on
             rlback rollback POLICY@N    go back
             rlback up                   a browser, Prefect and MLflow for all of it; decisions start what they allow
"""


def build() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="rlback",
        description="Rollback RLHF: train a policy on human preferences, and go back to the last approved "
        "checkpoint when people decline the result.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rlback {__version__}")
    parser.add_argument("--project", metavar="DIR", help="the project directory (default: here or above)")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, function: str, help_: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=help_, description=help_)
        added.set_defaults(function=function)
        return added

    init = verb("init", "campaigns:init", "make a new project directory")
    init.add_argument("directory", nargs="?", default=".")

    demo = verb("demo", "demo:demo", "the whole loop on a controlled world, beside vanilla RLHF")
    demo.add_argument("--seed", type=_seed, default=None, help="another seed; whatever comes out is shown")
    demo.add_argument("--engine", choices=("prefect", "inline"), default="prefect")
    _json(demo)

    run = verb("run", "campaigns:run", "start a campaign from a configuration and carry it on")
    run.add_argument("config", help="a YAML file; see configs/")
    run.add_argument("--pairs", metavar="PATH", help="a file of preferences (JSONL, CSV, Parquet; gzip, xz or not)")
    run.add_argument("--votes", metavar="PATH", help="votes of single annotators for the same pairs")
    run.add_argument("--text", metavar="PATH", help="text to pretrain on (.txt, .xz, .gz)")
    run.add_argument("--name", help="the campaign's name (default: the configuration's)")
    run.add_argument("--seed", type=_seed, help="instead of the configuration's")
    run.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one key; may be repeated")
    run.add_argument("--dry-run", action="store_true", help="check everything, say what would be done, do nothing")
    _engine(run)
    _actor(run)
    _json(run)

    advance = verb("advance", "campaigns:advance", "carry campaigns on until a person is needed")
    advance.add_argument("campaign", nargs="?", help="default: every active campaign")
    _engine(advance)
    _json(advance)

    status = verb("status", "campaigns:status", "what runs, and what waits for whom with the command that answers it")
    _json(status)

    stop = verb("stop", "campaigns:stop", "end an active campaign for good; what is recorded stays")
    stop.add_argument("campaign")
    _reason(stop)
    _actor(stop)

    report = verb("report", "campaigns:report", "write the HTML report of one or more campaigns")
    report.add_argument("campaigns", nargs="+", metavar="CAMPAIGN")
    report.add_argument("--output", metavar="DIR", help="default: reports/CAMPAIGN")
    _json(report)

    label = verb("label", "people:label", "label comparisons, blind, one key each")
    label.add_argument("campaign", nargs="?", help="default: the campaign that waits for labels")
    _actor(label, "annotator")

    gate = verb("gate", "", "look at the evidence at a gate and decide on it")
    acts = gate.add_subparsers(dest="act", metavar="ACT", required=True)
    show = acts.add_parser("show", help="the evidence, its digest, samples side by side")
    show.set_defaults(function="people:gate_show")
    show.add_argument("id", nargs="?", help="default: the gate that is open")
    _json(show)
    for name, text in (
        ("approve", "keep the candidate: it becomes the approved checkpoint"),
        ("decline", "decline it and roll back to the start checkpoint"),
        ("more-labels", "ask for another batch of labels before deciding"),
    ):
        act = acts.add_parser(name, help=text, description=text)
        act.set_defaults(function="people:gate_decide", verdict=name)
        act.add_argument("id")
        act.add_argument("--digest", required=True, help="of the evidence you saw (at least its first 12 digits)")
        act.add_argument("--reason", default="", help="required to decline or to ask for more labels")
        _actor(act, "approver")
        _json(act)

    act = acts.add_parser("break-glass", help="in an emergency: approve alone, past four eyes and quorum; everybody sees it")
    act.set_defaults(function="people:gate_break_glass")
    act.add_argument("id")
    act.add_argument("--digest", required=True, help="of the evidence you saw (at least its first 12 digits)")
    act.add_argument("--reason", required=True, help="the emergency, in 20 characters or more")
    act.add_argument("--confirm", default="", metavar="SENTENCE", help="the sentence it asks for")
    _actor(act, "approver")
    _json(act)

    registry = verb("registry", "", "the checkpoints of every policy")
    acts = registry.add_subparsers(dest="act", metavar="ACT", required=True)
    listing = acts.add_parser("list", help="every version with its status and aliases")
    listing.set_defaults(function="checkpoints:registry_list")
    listing.add_argument("policy", nargs="?")
    _json(listing)

    rollback = verb("rollback", "checkpoints:rollback", "go back to an approved checkpoint")
    rollback.add_argument("checkpoint", metavar="POLICY@N")
    rollback.add_argument("--dry-run", action="store_true", help="say what would move, move nothing")
    rollback.add_argument("--reason", default="", help="is recorded in the ledger; only --dry-run goes without")
    _actor(rollback)
    _json(rollback)

    deploy = verb("deploy", "checkpoints:deploy", "make an approved checkpoint the deployed one")
    deploy.add_argument("checkpoint", metavar="POLICY@N")
    deploy.add_argument("--reason", default="")
    _actor(deploy)
    _json(deploy)

    withdraw = verb("withdraw", "checkpoints:withdraw", "take the deployed checkpoint out of service; nothing is deployed then")
    withdraw.add_argument("checkpoint", metavar="POLICY@N|POLICY@deployed")
    _reason(withdraw)
    _actor(withdraw)
    _json(withdraw)

    audit = verb("audit", "checkpoints:audit", "where a checkpoint comes from and who decided on what evidence")
    audit.add_argument("checkpoint", metavar="POLICY@N|ALIAS")
    audit.add_argument("--forward", action="store_true", help="with --json: the graph has what came of it, too")
    _json(audit)

    verify = verb("verify", "checkpoints:verify", "check the ledger's chain, and that registry, files and data agree")
    verify.add_argument("--quick", action="store_true", help="the chain only, no files")
    _json(verify)

    ledger = verb("ledger", "", "which database the ledger is in, and moving it to another one (docs/database.md)")
    acts = ledger.add_subparsers(dest="act", metavar="ACT", required=True)
    act = acts.add_parser("where", help="the database, and how many events it holds")
    act.set_defaults(function="ledger:where")
    _json(act)
    act = acts.add_parser("copy", help="copy a SQLite file's ledger into the empty database that the project is set to")
    act.set_defaults(function="ledger:copy")
    act.add_argument("file", metavar="FILE", help="such as .rlback/ledger.db")
    _json(act)

    add_label_verbs(verb, _actor, _json, _reason)
    study = verb(
        "study", "studies:study",
        "run a study (arms, settings, seeds); `study show [NAME]`: what came out; `study claims [NAME]`: published claims on it",
    )  # fmt: skip
    study.add_argument("config", metavar="CONFIG|show|claims", help="a YAML file, see configs/studies/; or `show`, or `claims`")
    study.add_argument("name", nargs="?", metavar="NAME", help="with show or claims: a study that has results")
    study.add_argument("--dry-run", action="store_true", help="check everything, say what is missing and how long it may take")
    study.add_argument("--seeds", type=_seed, metavar="N", help="this many seeds instead of the file's")
    study.add_argument("--out", metavar="PATH", help="where results lie (default: reports/studies/NAME); with claims: its page")
    study.add_argument("--pairs", metavar="PATH", help="people's preferences, for a world that is made of them")
    study.add_argument("--text", metavar="PATH", help="plain text that such a world's models are trained on, too")
    study.add_argument("--workers", type=_seed, metavar="N", help="processes (default: the file's, or one a core)")
    for name in ("setting", "arm", "table"):
        told = f"with show: this {name} only; may be repeated"
        study.add_argument(f"--{name}", action="append", default=[], metavar="NAME", help=told)
    study.add_argument(
        "--against", action="append", default=[], metavar="ARM", help="with show: taxes against this arm; once or twice"
    )
    study.add_argument("--draws", type=_seed, metavar="N", help="with show: draws of each bootstrap")
    _engine(study)
    _json(study)

    export = verb("export", "console:export", "the labels of a batch as JSON lines")
    add_export(export)
    _actor(export)

    console = verb("console", "console:console", "the same in a browser: label, gates, timeline, ledger")
    console.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: this machine only)")
    console.add_argument("--port", type=int, default=8700)
    console.add_argument(
        "--name", action="append", default=[], metavar="HOST[:PORT]", help="another host name it answers to, as browsers say it"
    )
    _json(console)

    outbox = verb("outbox", "", "what is to be told to the outside: flow runs to start, webhooks")
    acts = outbox.add_subparsers(dest="act", metavar="ACT", required=True)
    act = acts.add_parser("deliver", help="deliver what is due now (the console and `rlback up` do it by themselves)")
    act.set_defaults(function="notices:deliver")
    _json(act)
    act = acts.add_parser("list", help="what waits, what was given up, and why")
    act.set_defaults(function="notices:listing")
    _json(act)

    up = verb("up", "up:up", "Prefect, MLflow, a worker and the console together, on this machine, until Ctrl-C")
    up.add_argument("--only", metavar="NAMES", help="some of prefect,mlflow,worker,console, with commas")
    for name, port in (("prefect", 4200), ("mlflow", 5000), ("console", 8700)):
        up.add_argument(f"--{name}-port", type=int, default=port, metavar="N", help=f"default: {port}")
    up.add_argument(
        "--every", type=float, metavar="SECONDS", help="how often campaigns are looked after from now on (default: as before)"
    )
    up.add_argument("--at-once", type=int, default=1, metavar="N", help="how many campaigns are carried on at once (1)")
    _actor(up)
    _json(up)

    schedule = verb("schedule", "up:schedule", "how often waiting campaigns are advanced while `rlback up` runs; change it")
    schedule.add_argument("--every", type=float, metavar="SECONDS", help="from now on")
    pausing = schedule.add_mutually_exclusive_group()
    pausing.add_argument("--pause", action="store_true", help="until it is resumed; decisions still start what they allow")
    pausing.add_argument("--resume", action="store_true")
    _actor(schedule)
    _json(schedule)

    users = verb("users", "", "who may use the console, and for what")
    acts = users.add_subparsers(dest="act", metavar="ACT", required=True)
    act = acts.add_parser("add", help="add a user (the first one is an admin); the password is asked for")
    act.set_defaults(function="console:users_add")
    act.add_argument("name")
    act.add_argument("--role", action="append", default=[], help="annotator, approver, operator, auditor, admin; may be repeated")
    _actor(act)
    _json(act)
    act = acts.add_parser("list", help="every account with its roles")
    act.set_defaults(function="console:users_list")
    _json(act)
    act = acts.add_parser("change", help="other roles, another password, disable or enable")
    act.set_defaults(function="console:users_change")
    act.add_argument("name")
    act.add_argument("--role", action="append", default=[], help="all roles from now on; may be repeated")
    act.add_argument("--password", action="store_true", help="ask for another password")
    act.add_argument("--disable", action="store_true")
    act.add_argument("--enable", action="store_true")
    act.add_argument("--reason", default="", help="required to disable or enable")
    _actor(act)
    _json(act)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Parses and runs; errors of ours are printed with their remedy and give their exit status."""
    options = build().parse_args(arguments)
    if options.project:
        os.environ["RLBACK_PROJECT"] = options.project
    module, _, name = options.function.partition(":")
    try:
        _check_reason(getattr(options, "reason", None))
        function = getattr(importlib.import_module(f"rlback.cli.{module}"), name)
        return int(function(options) or 0)
    except KeyboardInterrupt:
        print("\nstopped; nothing recorded is lost, `rlback advance` carries on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has what it wanted; do not complain while closing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        shown = _explained(error)
        if shown is None:
            raise
        return show_error(shown, as_json=getattr(options, "json", False))


def _check_reason(reason: str | None) -> None:
    """Raises ConfigError on a reason longer than the console takes, whichever command it is given to."""
    if reason is not None and len(reason) > REASON_CHARS:
        raise ConfigError(f"a reason has at most {REASON_CHARS:,} characters; this one has {len(reason):,}", remedy="shorten it")


def _explained(error: Exception) -> RlbackError | None:
    """The error to show: ours as it is, and one of ours for a full disk, however it came up."""
    from rlback.disks import full_disk
    from rlback.errors import StageError

    here = Path(os.environ.get("RLBACK_PROJECT") or ".")
    full = None if isinstance(error, StageError) else full_disk(error, here)
    if full is None:
        return error if isinstance(error, RlbackError) else _kept_out(error)
    return StageError(
        f"the disk is full{full.said}",
        remedy="free some space, then give the command again; nothing recorded is lost",
    )


def _kept_out(error: BaseException | None) -> RlbackError | None:
    """An error of ours where the system did not let us at a file, which libraries may have wrapped; else None."""
    from rlback.errors import ProjectError

    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename:
            return ProjectError(
                f"{error.filename} is not open to you: {error.strerror}",
                remedy="give the command as the user it belongs to, or make the place writable; nothing recorded is lost",
            )
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


def show_error(error: RlbackError, *, as_json: bool) -> int:
    """Prints an error on standard error (as JSON where that was asked for); returns its exit status."""
    if as_json:
        import json

        body = {"error": {"kind": type(error).__name__, "message": error.message, "remedy": error.remedy}}
        print(json.dumps(body), file=sys.stderr)
    else:
        from rlback.labelling.display import visible

        # A message may quote what somebody else wrote: a file's name, a reason, a row.
        print(f"rlback: {visible(error.message)}", file=sys.stderr)
        if error.remedy:
            print(f"        {visible(error.remedy)}", file=sys.stderr)
    return error.exit_code


def _seed(text: str) -> int:
    if not text.isdigit() or len(text) > 12:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine", choices=("prefect", "inline"), default="prefect",
        help="run stages as Prefect tasks (default), or without Prefect",
    )  # fmt: skip


def _reason(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", required=True, help="is recorded in the ledger")


def _actor(parser: argparse.ArgumentParser, role: str = "actor") -> None:
    parser.add_argument("--as", dest="actor", metavar="NAME", help=f"who you are, as {role} (default: your login name)")

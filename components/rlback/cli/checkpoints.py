"""`registry`, `rollback`, `deploy`, `withdraw`, `audit`, `verify`: the registry and the ledger."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from rlback.cli.output import actor_of, next_command, say
from rlback.labelling.display import in_line, visible

WIDEST = 1_000


def registry_list(options: argparse.Namespace) -> int:
    """Every version with status and aliases."""
    from rlback.project import find_project
    from rlback.registry.operations import list_aliases, list_versions

    project = find_project()
    versions = list_versions(project.store, options.policy)
    aliases = {policy: list_aliases(project.store, policy) for policy in {v.policy for v in versions}}

    def of(version: Any) -> list[str]:
        return sorted(a for a, n in aliases[version.policy].items() if n == version.version)

    if options.json:
        rows = [
            {"checkpoint": v.address, "status": v.status, "aliases": of(v), "digest": v.digest, "campaign": v.campaign,
             "round": v.round, "parent": v.parent, "created": v.created, "location": v.location}
            for v in versions
        ]  # fmt: skip
        print(json.dumps(rows, indent=2))
        return 0
    if not versions:
        say("There are no checkpoints yet.")
        next_command("rlback demo")
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("checkpoint", "status", "aliases", "parent", "campaign", "round", "digest"):
        table.add_column(column, overflow="fold")  # nothing is cut: an address is there to be copied
    for v in versions:
        parent = f"{v.policy}@{v.parent}" if v.parent else "-"
        table.add_row(v.address, v.status, " ".join(of(v)), parent, v.campaign, str(v.round), v.digest[:12])
    # Whoever reads a pipe has no width.
    Console(highlight=False, width=None if sys.stdout.isatty() else WIDEST).print(table)
    return 0


def rollback(options: argparse.Namespace) -> int:
    """Goes back to an approved checkpoint."""
    from rlback.project import find_project
    from rlback.registry.mlflow_store import MlflowStore
    from rlback.registry.operations import resolve
    from rlback.registry.rollback import roll_back

    project = find_project()
    target = resolve(project.store, options.checkpoint)
    plan = roll_back(project, MlflowStore(project.root), target, actor_of(options), options.reason, dry_run=options.dry_run)
    if options.json:
        print(json.dumps({"target": target.address, "digest": target.digest, "done": not options.dry_run, "plan": plan}))
        return 0
    say(f"{'Would roll' if options.dry_run else 'Rolled'} back to {target.address} (digest {target.digest[:12]}, verified):")
    for line in plan:
        say(f"  {line}")
    next_command(f'rlback rollback {target.address} --reason "…"' if options.dry_run else f"rlback audit {target.address}")
    return 0


def deploy(options: argparse.Namespace) -> int:
    """Deploys an approved checkpoint."""
    from rlback.project import find_project
    from rlback.registry.deployments import deploy as deploy_version
    from rlback.registry.mlflow_store import MlflowStore
    from rlback.registry.operations import resolve

    project = find_project()
    target = resolve(project.store, options.checkpoint)
    was = deploy_version(project, MlflowStore(project.root), target, actor_of(options), options.reason)
    before = f"{target.policy}@{was}" if was is not None else None
    if options.json:
        print(json.dumps({"deployed": target.address, "digest": target.digest, "before": before}))
        return 0
    say(f"{target.address} is deployed (digest {target.digest[:12]}, verified); before: {before or 'nothing'}.")
    say(f"Its files: {project.absolute(target.location)}")
    next_command(f"rlback audit {target.address}")
    return 0


def withdraw(options: argparse.Namespace) -> int:
    """Takes the deployed checkpoint out of service."""
    from rlback.project import find_project
    from rlback.registry.deployments import withdraw as withdraw_version
    from rlback.registry.mlflow_store import MlflowStore
    from rlback.registry.operations import resolve

    project = find_project()
    target = resolve(project.store, options.checkpoint)
    withdraw_version(project, MlflowStore(project.root), target, actor_of(options), options.reason)
    if options.json:
        print(json.dumps({"withdrawn": target.address, "digest": target.digest}))
        return 0
    say(f"{target.address} is out of service; nothing of {target.policy} is deployed. What is approved stays.")
    next_command(f"rlback deploy {target.policy}@approved")
    return 0


def audit(options: argparse.Namespace) -> int:
    """Where a checkpoint comes from."""
    from rlback.project import find_project
    from rlback.registry.lineage import audit as audit_version
    from rlback.registry.lineage_graph import graph
    from rlback.registry.lineage_marks import mark
    from rlback.registry.operations import resolve

    project = find_project()
    version = resolve(project.store, options.checkpoint)
    found = audit_version(project, version)
    if options.json:
        print(json.dumps({**found, "graph": mark(project, graph(project.store, version, options.forward))}, indent=2))
        return 0
    for line in audit_lines(found):
        say(line)
    return 0


def audit_lines(found: dict[str, Any]) -> list[str]:
    """An audit as lines for a terminal: newest fact first, then how it came about."""
    code = found["code"] or {}
    revision = code.get("revision")
    where = f"{revision[:12]}{' + changes' if code.get('modified') else ''}" if revision else "no git revision"
    source, frozen, model = found["data"]["source"], found["data"]["labels"], found["reward_model"]
    lines = [
        f"{found['checkpoint']}  {found['status']}{'  ' + ' '.join(found['aliases']) if found['aliases'] else ''}",
        f"  weights       sha256 {found['digest']}",
        f"  code          {where}, package digest {str(code.get('digest'))[:12]}",
        f"  libraries     {', '.join(f'{k} {v}' for k, v in (found['libraries'] or {}).items())}",
        f"  configuration {found['campaign']['config_digest'][:12]} of campaign {found['campaign']['name']}, "
        f"started by {found['campaign']['started_by']}",
        f"  source data   md5 {source.get('data_version')}, sha256 {str(source.get('sha256'))[:12]}",
    ]
    for b in found["break_glass"]:
        alone = f"{b['candidate']} approved alone by {b['by']} at gate {b['gate']}"
        lines.append(f"  BREAK-GLASS   {alone}, {b['time'][:16]}: {in_line(b['reason'])}")
    for key, value in found["campaign"]["inputs"].items():
        lines.append(f"  {key:<13} {value['path']}, sha256 {value['sha256'][:12]}")
    if frozen:
        lines.append(f"  labels        md5 {frozen['md5']}, frozen before round {found['rounds'][-1]['round']}")
    if model:
        pairs = f", fitted to {model['pairs']} pairs" if "pairs" in model else ""
        lines.append(f"  reward model  sha256 {model['digest'][:12]}{pairs}")
    if found["parents"]:
        chain = " <- ".join(p["checkpoint"] for p in found["parents"])
        lines.append(f"  parents       {chain}")
    for entry in found["rounds"]:
        lines += _round_lines(found["checkpoint"].partition("@")[0], entry)
    for act in found["acts"]:
        lines.append(f"  {act['what']} by {act['by']}, {act['time'][:16]}: {in_line(act['reason']) or 'no reason given'}")
    lines.append(f"  {len(found['events'])} events in the ledger stand behind it; `rlback verify` checks them")
    return lines


def _round_lines(policy: str, entry: dict[str, Any]) -> list[str]:
    labels = ", ".join(f"{x['labels']} labels by {x['annotator']} ({x['kind']})" for x in entry["labels"]) or "no labels"
    head = f"  round {entry['round']}: {policy}@{entry['start']} -> {policy}@{entry['candidate']}, {labels}"
    lines = [head]
    for gate in entry["gates"]:
        rate = (gate["statistics"] or {}).get("win_rate")
        figure = f"win rate {rate['value']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}] n={rate['n']}" if rate else "no labels"
        who = f"{gate['approver']} ({gate['approver_kind']})" if gate["approver"] else gate["closed_by"] or "nobody"
        lines.append(
            f"    {gate['verdict'] or gate['state']} by {who}: {in_line(gate['reason'] or '') or 'no reason given'}; {figure}; "
            f"evidence {gate['evidence'][:12]}"
        )
    if entry["rolled_back"]:
        lines.append(f"    rolled back to {policy}@{entry['kept']}")
    return lines


def verify(options: argparse.Namespace) -> int:
    """Checks the ledger, the registry, the files and the data."""
    from rlback.project import find_project
    from rlback.registry.verification import verify as verify_all

    project = find_project()
    mirror = None
    if not options.quick:
        from rlback.registry.mlflow_store import MlflowStore

        mirror = MlflowStore(project.root)
    result = verify_all(project, mirror)
    if options.json:
        findings = [vars(finding) for finding in result.findings]
        body = {"holds": result.holds, "events": result.events, "checkpoints": result.checkpoints,
                "data_versions": result.data_versions, "sources": result.sources, "findings": findings}  # fmt: skip
        print(json.dumps(body, indent=2))
        return 0 if result.holds else 5
    for finding in result.findings:
        print(visible(f"{finding.where}: {finding.what}"), file=sys.stderr)
        if finding.remedy:
            print(f"    {finding.remedy}", file=sys.stderr)
    looked = (
        f"{result.events} events, {result.checkpoints} stored models (policies, their steps and reward models), "
        f"{result.data_versions} label snapshots, "
        f"{result.sources} versions of source data"
    )
    if result.holds:
        say(f"The ledger holds: {looked}.")
        return 0
    print(f"{len(result.findings)} findings over {looked}.", file=sys.stderr)
    return 5

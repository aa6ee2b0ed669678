"""The command line as its user meets it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from rlback.__main__ import main
from rlback.campaign.evidence import evidence_markdown, sample_sides
from rlback.campaign.machine import label_count
from rlback.campaign.summary import method_figures
from rlback.labelling.batches import Stored, counting_labels
from rlback.labelling.quality import ratings
from rlback.labelling.terminal import _piped, _show
from rlback.project import Project
from rlback.records import Actor, Comparison, Completion
from rlback.registry.gates import open_gates
from rlback.registry.lineage import _round
from rlback.registry.mlflow_store import MlflowStore
from rlback.registry.operations import list_versions, move_alias
from rlback.registry.verification import verify
from tests.conftest import ROOT, changed


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch):
    """Runs commands in a project: at(project) first."""

    def enter(project: Project) -> None:
        monkeypatch.chdir(project.root)
        monkeypatch.delenv("RLBACK_PROJECT", raising=False)

    return enter


def test_outside_a_project_it_says_what_to_do(tmp_path: Path, monkeypatch, capsys):
    """Any command outside a project names the place and `rlback init`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLBACK_PROJECT", raising=False)
    assert main(["status"]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path) in error
    assert "rlback init" in error


@pytest.mark.parametrize(
    ("override", "named", "remedy"),
    [
        ("optimise.betta=1", "optimise.betta", "`beta`"),
        ("roundz=2", "roundz", "`rounds`"),
        ("base.shape.d_modell=8", "base.shape.d_modell", "`d_model`"),
        # The key that was meant is missing now, too; the misspelt one is the one to name.
        ("reward_model.training={'epochs':1,'batch':8,'lrr':0.1}", "reward_model.training.lrr", "`lr`"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_valid_one(project, at, capsys, override, named, remedy):
    """A misspelt key stops the run before anything is written."""
    at(project)
    assert main(["run", str(ROOT / "configs" / "demo.yaml"), "--set", override, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert remedy in error
    assert project.store.event_count() == 0


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_in_configs_is_valid_and_says_how_to_run_it(file: Path):
    """Each file passes the checks and its header names the hardware and a command."""
    from rlback.config import read_config

    read_config(file)
    header = "".join(line for line in file.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert "Hardware:" in header
    assert "rlback" in header


def test_a_bad_pairs_file_is_named_with_its_line_and_nothing_is_started(project, at, capsys, tmp_path):
    """Line 2 has no rejected completion: the dry run says so."""
    bad = tmp_path / "bad.jsonl"
    good = json.dumps({"prompt": "p", "chosen": "yes", "rejected": "no", "topic": "a_b"})
    bad.write_text(good + "\n" + json.dumps({"prompt": "p", "chosen": "yes"}) + "\n")
    at(project)
    assert main(["run", str(ROOT / "configs" / "arguments.yaml"), "--pairs", str(bad), "--dry-run"]) == 3
    error = capsys.readouterr().err
    assert "bad.jsonl" in error
    assert "line 2" in error


def test_status_names_who_is_waited_for_and_the_command(at_gate, at, capsys):
    """At a gate, status says approver, gate and command, as text and as JSON."""
    at(at_gate)
    assert main(["status"]) == 0
    assert "rlback gate show person.r1" in capsys.readouterr().out
    assert main(["status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["campaigns"][0]
    assert (found["campaign"], found["waits_for"], found["command"]) == ("person", "approval", "rlback gate show person.r1")


def test_without_a_name_the_open_gate_is_shown(at_gate, at, capsys, monkeypatch):
    """One is shown, of several all are named, and so is the command; without any, what to look at."""
    at(at_gate)
    gate = open_gates(at_gate.store)[0]
    assert main(["gate", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gate"] == "person.r1"
    monkeypatch.setattr("rlback.registry.gates.open_gates", lambda store: [gate, replace(gate, id="other.r2")])
    assert main(["gate", "show"]) == 6
    error = capsys.readouterr().err
    assert "2 gates are open: person.r1, other.r2" in error
    assert "`rlback gate show person.r1`" in error
    monkeypatch.setattr("rlback.registry.gates.open_gates", lambda store: [])
    assert main(["gate", "show"]) == 6
    assert "no gate is open now" in capsys.readouterr().err


def test_samples_say_what_was_cut_off_and_what_a_tool_wrote(at_gate, at, capsys):
    """One side did not end, in the other an environment wrote three characters; the terminal of annotators says it likewise."""
    gate = open_gates(at_gate.store)[0]
    sample = {
        "prompt": "2 + 2?", "candidate": "x" * 700, "start": "so 4 it is", "finished": [False, True],
        "answers": {"start": [[0, 0, 3, 4]]},
    }  # fmt: skip
    candidate, start = dict(sample_sides(sample)).values()
    assert candidate == f"{'x' * 600} … (100 more characters) ⟦cut off⟧"
    assert start == "so ⟦tool: 4⟧ it is"
    shown = evidence_markdown(replace(gate, evidence=gate.evidence | {"samples": [sample]}))
    assert "⟦cut off⟧" in shown
    comparison = Comparison("2 + 2?", Completion("x", (1,), False), Completion("4", (2,), True), "cross")
    _show(Stored("c", "b", 0, comparison), "a", 1, 1)
    assert "[1]\n    x ⟦cut off⟧\n" in capsys.readouterr().out
    at(at_gate)
    assert main(["gate", "show"]) == 0
    ended = [end for given in gate.evidence["samples"] for end in given["finished"]]
    assert capsys.readouterr().out.count("⟦cut off⟧") == ended.count(False) > 0


def test_a_decision_from_the_terminal_and_its_refusals(at_gate, at, capsys):
    """Show, a stale digest, a decline without a reason, an approval, a second decision, advance, deploy, audit."""
    at(at_gate)
    digest = open_gates(at_gate.store)[0].digest
    assert main(["gate", "show", "person.r1"]) == 0
    shown = capsys.readouterr().out
    assert digest in shown.replace("\n", "")
    assert "human win rate over start" in shown
    assert main(["gate", "approve", "person.r1", "--digest", "0" * 64]) == 6
    assert main(["gate", "decline", "person.r1", "--digest", digest]) == 6
    assert main(["deploy", "policy@2"]) == 4
    assert main(["gate", "approve", "person.r1", "--digest", digest[:12], "--as", "ann", "--reason", "reads well"]) == 0
    capsys.readouterr()
    assert main(["gate", "decline", "person.r1", "--digest", digest, "--as", "bob", "--reason", "no"]) == 6
    assert "approve by ann" in capsys.readouterr().err
    assert main(["advance", "person", "--engine", "inline", "--json"]) == 0
    capsys.readouterr()
    assert main(["deploy", "policy@approved", "--as", "ann"]) == 0
    assert main(["audit", "deployed", "--json"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out[out.index("{") :])
    assert found["rounds"][0]["gates"][0]["approver"] == "ann"
    assert found["rounds"][0]["gates"][0]["reason"] == "reads well"
    assert {n["side"] for n in found["graph"]["nodes"]} == {"itself", "behind"}
    assert main(["audit", "deployed", "--json", "--forward"]) == 0
    out = capsys.readouterr().out
    nodes = json.loads(out[out.index("{") :])["graph"]["nodes"]
    assert [n["mark"]["state"] for n in nodes if n["kind"] == "deployment" and n["side"] == "ahead"] == ["holds"]
    assert main(["verify"]) == 0


def test_labelling_from_standard_input_is_blind_and_stored(project, at, capsys, monkeypatch, tmp_path):
    """Twelve keys label twelve comparisons; neither checkpoint names nor scores are on the screen."""
    import io

    config = changed(name="people", rounds=1, labels={"annotators": "human", "initial": 12, "inside": 0, "cross": 4})
    file = tmp_path / "people.yaml"
    file.write_text(yaml.safe_dump(config))
    at(project)
    assert main(["run", str(file), "--engine", "inline"]) == 0
    assert "rlback label people" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO("1\n2\nt\nx\nu\n1\n" + "1\n" * 9))
    assert main(["label", "people", "--as", "ann"]) == 0
    out = capsys.readouterr().out
    assert "policy@" not in out
    assert "none of the keys" in out
    # Undoing shows the third again, and the fourth after it; the key that is none shows nothing again.
    assert [out.count(f"\n{n} of 12\n") for n in (2, 3, 4, 5)] == [1, 2, 2, 1]
    assert "0 left" in out
    revisions = [e.payload["revision"] for e in project.store.events("people") if e.kind == "label.given"]
    # Undoing is a second revision, so that a session that ends there leaves no label behind.
    assert sorted(set(revisions)) == [1, 2, 3]
    assert len(revisions) == 14
    # Twelve comparisons have a label each, whatever was undone on the way.
    assert "12 labels given, 0 left" in out
    assert label_count(project, "people") == 12
    assert _round(project.store, "people", 0)["labels"] == [{"annotator": "ann", "kind": "human", "labels": 12}]
    assert main(["verify"]) == 0


def test_what_was_undone_is_open_again_and_counted_nowhere(project, at, capsys, monkeypatch, tmp_path):
    """Two labels, the second undone before stopping; the sides stay where they were when it is shown again."""
    import io

    file = tmp_path / "people.yaml"
    labels = {"annotators": "human", "initial": 12, "inside": 0, "cross": 4}
    file.write_text(yaml.safe_dump(changed(name="people", rounds=1, labels=labels)))
    at(project)
    assert main(["run", str(file), "--engine", "inline"]) == 0
    drawn = iter("ab" * 20)  # drawn anew, every showing would have its sides the other way round
    monkeypatch.setattr("rlback.labelling.terminal.secrets.choice", lambda sides: next(drawn))
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO("1 1 u q"))
    assert main(["label", "people", "--as", "ann"]) == 0
    out = capsys.readouterr().out
    shown = out.split("\n2 of 12\n")[1:]
    first, again = (text.split("1 left   2 right")[0] for text in shown)
    assert first == again
    assert "1 label given, 11 left" in out
    assert [(x.comparison, x.verdict) for x in counting_labels(project.store, "people.r0")] == [("people.r0.0", "a")]
    assert len(ratings(project.store, "people.r0")) == label_count(project, "people") == 1
    assert _round(project.store, "people", 0)["labels"] == [{"annotator": "ann", "kind": "human", "labels": 1}]
    assert main(["verify"]) == 0


@pytest.mark.parametrize(
    ("line", "keys"), [("1 2 t\n", "12t"), ("12t\n", "12t"), ("Tie\n", "t"), ("1\n", "1"), ("left 2", "l2"), (" \n", "")]
)
def test_keys_may_stand_together_on_a_piped_line(line: str, keys: str):
    assert "".join(_piped(line)) == keys


def test_a_curve_ends_in_what_the_table_says(finished):
    """Each round's last point is its candidate as measured, and comes after the points from training."""
    figures = method_figures(finished, "tiny")
    for entry in figures["rounds"]:
        points = [p for p in figures["curve"] if p["round"] == entry["round"]]
        assert [p["step"] for p in points] == sorted({p["step"] for p in points})
        assert points[-1]["step"] == entry["steps"]
        assert {k: points[-1][k] for k in ("kl", "proxy", "gold")} == {k: entry[k] for k in ("kl", "proxy", "gold")}


def test_a_list_in_a_pipe_is_not_cut_to_somebodys_terminal(finished, at, capsys, monkeypatch):
    at(finished)
    monkeypatch.setenv("COLUMNS", "30")
    assert main(["registry", "list"]) == 0
    out = capsys.readouterr().out
    for version in list_versions(finished.store):
        assert any(line.split()[0] == version.address and version.digest[:12] in line for line in out.splitlines())


def test_the_summary_has_the_figures_the_schema_names(finished):
    """Every key of the summary's schema is there, measured on the tiny campaign."""
    from rlback.campaign.summary import demo_summary

    summary = demo_summary(
        finished, {"rollback": "tiny", "vanilla": "tiny"}, seed=1, seconds=1.0, report="r", events=1, verified=True
    )
    assert set(summary) >= {"seconds", "world", "seed", "methods", "rollbacks", "approved", "ledger", "data_version", "report"}
    ours = summary["methods"]["rollback"]
    assert set(ours) >= {"gold", "proxy", "kl", "labels", "misreward_kept", "rounds"}
    assert ours["labels"] == 24 + 2 * 16
    for entry in ours["rounds"]:
        assert set(entry) >= {"round", "decision", "gold", "proxy", "kl", "agreement", "labels"}
        assert entry["decision"] in ("approved", "declined")
    assert "gold_peak" in summary["methods"]["vanilla"]


def test_advance_mends_what_a_killed_deploy_left_where_no_campaign_is_active(finished, at, capsys):
    """Killed between the ledger's transaction and MLflow's alias: verify names `rlback advance`, and that is what mends it."""
    mirror = MlflowStore(finished.root)
    with finished.store.transaction() as transaction:
        move_alias(transaction, "policy", "deployed", 2, Actor("opal", "human"), "then it was killed")
    (found,) = verify(finished, mirror).findings
    assert found.remedy == "rlback advance mends them"
    at(finished)
    assert main(["advance"]) == 0
    assert "alias deployed None -> 2" in capsys.readouterr().out
    assert verify(finished, mirror).findings == []
    assert mirror.aliases("policy")["deployed"] == 2


def test_a_report_says_where_it_is_for_programs_too(finished: Project, monkeypatch, capsys):
    """One JSON object that names the page, which is there."""
    monkeypatch.chdir(finished.root)
    assert main(["report", "tiny", "--output", "out", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["campaigns"] == ["tiny"]
    assert Path(found["report"]).read_text().rstrip().endswith("</html>")


def test_a_round_whose_training_diverged_is_told(project: Project, at, capsys):
    """Weights that an update ruins are no candidate: the round is settled without one, and the command says so and why."""
    at(project)
    (project.root / "c.yaml").write_text(yaml.safe_dump(changed(rounds=1)))
    assert main(["run", "c.yaml", "--engine", "inline", "--set", "optimise.steps=1", "--set", "optimise.lr=1e10"]) == 0
    said = capsys.readouterr().out
    assert "Round 1 proposes nothing, and the policy stays as it was: policy optimisation: after the update at step 0" in said
    assert [v.status for v in list_versions(project.store)] == ["base"]
    assert verify(project, MlflowStore(project.root)).holds

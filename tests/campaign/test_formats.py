"""One campaign for each way of writing preferences: from the file to a deployed and audited checkpoint."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import lzma
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlback.campaign import machine
from rlback.campaign.plan import Step
from rlback.campaign.progress import ProgressFile
from rlback.campaign.remarks import data_lines
from rlback.campaign.sources import Parted, part_pairs
from rlback.campaign.starting import plan_lines
from rlback.config import check_config, parse_override, read_config, read_tree
from rlback.errors import ConfigError, DataError
from rlback.labelling.batches import stored
from rlback.project import Project, make_project
from rlback.records import Actor
from rlback.registry.mlflow_store import MlflowStore
from tests.campaign.walking import SMALL, advance, command, decide, entered, lines, plain, preferences, start
from tests.conftest import ROOT
from tests.data.test_preferences_shared import public


def dialogues() -> bytes:
    """Two whole conversations a row, as hh-rlhf has them."""
    shared = "\n\nHuman: {}\n\nAssistant: Go on.\n\nHuman: {}\n\nAssistant: {}"
    return lines(
        {"chosen": shared.format(first, second, better), "rejected": shared.format(first, second, worse)}
        for first, second, better, worse in preferences()
    )


def messages(*turns: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def explicit_messages() -> list[dict[str, Any]]:
    return [
        {"prompt": messages(first, "Go on.", second), "chosen": said(better), "rejected": said(worse)}
        for first, second, better, worse in preferences()
    ]


def implicit_messages() -> list[dict[str, Any]]:
    return [
        {side: messages(first, "Go on.", second, reply) for side, reply in (("chosen", better), ("rejected", worse))}
        for first, second, better, worse in preferences()
    ]


def table(rows: list[dict[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


#: name -> (configuration, file name, bytes)
FORMATS: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "plain": ("explicit-prompt.yaml", "pairs.jsonl", lambda: lines(plain())),
    "plain-gzip": ("explicit-prompt.yaml", "pairs.jsonl.gz", lambda: gzip.compress(lines(plain()))),
    "plain-xz": ("explicit-prompt.yaml", "pairs.jsonl.xz", lambda: lzma.compress(lines(plain()))),
    "csv": ("table.yaml", "pairs.csv", lambda: table(plain())),
    "parquet": ("table.yaml", "pairs.parquet", lambda: parquet(plain())),
    "dialogues": ("hh-dialogues.yaml", "pairs.jsonl", dialogues),
    "messages": ("conversational.yaml", "pairs.jsonl", lambda: lines(explicit_messages())),
    "messages-parquet": ("conversational.yaml", "pairs.parquet", lambda: parquet(explicit_messages())),
    "conversations": ("conversational.yaml", "pairs.jsonl", lambda: lines(implicit_messages())),
}
SAME = (
    ("plain", "plain-gzip", "plain-xz", "csv", "parquet"),
    ("messages", "messages-parquet", "conversations"),
)


@dataclass(frozen=True)
class Walked:
    """A campaign that was declined, advanced, approved, advanced and deployed; what is recorded of it."""

    root: Path
    recorded: dict[tuple[int, str, int], dict[str, Any]]
    versions: list[dict[str, Any]]
    audit: dict[str, Any]
    verified: str


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Walked]:
    """Walks the campaign of one format, once."""
    template = tmp_path_factory.mktemp("formats") / "empty"
    MlflowStore(make_project(template).root).prepare()  # the registry's database is the slow part; it is copied
    done: dict[str, Walked] = {}

    def walked(name: str) -> Walked:
        if name not in done:
            root = tmp_path_factory.mktemp(name) / "p"
            shutil.copytree(template, root)
            done[name] = _walk(root, *FORMATS[name])
        return done[name]

    return walked


def _walk(root: Path, config: str, file: str, content: Callable[[], bytes]) -> Walked:
    with entered(root) as project:
        (root / file).write_bytes(content())
        assert "rlback label people" in start(config, root / file)
        assert "0 left" in command("label", "people", "--as", "ann", keys="12ts12")
        assert "rlback gate show people.r1" in advance()
        decide("decline", "people.r1")
        assert "people.r2" in advance()
        command("label", "--as", "ann", keys="111122")
        advance()
        decide("approve", "people.r2")
        assert "people.r3" in advance()
        command("deploy", "people@3", "--as", "bob")
        return Walked(
            root=root,
            recorded=machine.load_recorded(project, "people"),
            versions=json.loads(command("registry", "list", "--json")),
            audit=json.loads(command("audit", "deployed", "--json")),
            verified=command("verify"),
        )


@pytest.mark.parametrize("name", FORMATS)
def test_a_campaign_goes_from_any_format_to_a_deployed_checkpoint(walk: Callable[[str], Walked], name: str):
    """Read, labelled, declined (round 2 starts from the base), approved (round 3 starts there), deployed, audited."""
    found = walk(name)
    data = found.recorded[(0, "data", 1)]
    assert (data["pairs"], data["train"], data["held"], len(data["held_groups"]), data["leaked"]) == (24, 18, 6, 2, 0)
    assert found.recorded[(0, "fit_reward", 1)]["given"] == 18
    starts = [found.recorded[(round_, "optimise", 1)]["start"] for round_ in (1, 2, 3)]
    assert starts == [1, 1, 3]
    assert [(v["checkpoint"], v["status"], v["parent"]) for v in found.versions] == [
        ("people@1", "base", None),
        ("people@2", "declined", 1),
        ("people@3", "approved", 1),
        ("people@4", "candidate", 3),
    ]
    verdicts = found.recorded[(1, "fit_reward", 1)]["verdicts"]
    assert (verdicts["a"] + verdicts["b"], verdicts["tie"], verdicts["skip"]) == (4, 1, 1)
    assert "The ledger holds" in found.verified


@pytest.mark.parametrize("name", FORMATS)
def test_the_audit_names_the_file_the_labels_and_the_people(walk: Callable[[str], Walked], name: str):
    """The deployed checkpoint leads back to the file's SHA-256, both annotated rounds and the person who decided."""
    found = walk(name)
    file = found.root / FORMATS[name][1]
    given = found.audit["campaign"]["inputs"]["pairs"]
    assert given == {"path": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert found.audit["checkpoint"] == "people@3"
    assert "deployed" in found.audit["aliases"]
    assert found.audit["data"]["source"]["sha256"] == found.recorded[(0, "data", 1)]["sha256"]
    first, second = found.audit["rounds"]
    assert (first["decision"], first["rolled_back"], second["decision"]) == ("declined", True, "approved")
    assert [r["labels"] for r in (first, second)] == [[{"annotator": "ann", "kind": "human", "labels": 6}]] * 2
    assert second["gates"][0]["approver"] == "bob"


@pytest.mark.parametrize("names", SAME, ids=lambda names: names[0])
def test_the_same_preferences_in_another_format_give_the_same_first_candidate(
    walk: Callable[[str], Walked], names: tuple[str, ...]
):
    """How the file is written and packed changes neither source data, base policy, reward model nor candidate."""
    results = set()
    for name in names:
        recorded = walk(name).recorded
        results.add(
            (recorded[(0, "data", 1)]["sha256"], recorded[(0, "base", 1)]["digest"],
             recorded[(0, "fit_reward", 1)]["digest"], recorded[(1, "optimise", 1)]["digest"])
        )  # fmt: skip
    assert len(results) == 1


def test_a_prompt_longer_than_the_policy_reads_is_learnt_from_but_never_sampled_on(tmp_path: Path):
    """One prompt of 400 words among eight: the reward model gets its three pairs, nobody is asked about it."""
    long = "why " * 400
    rows = [{**row, "prompt": long if row["prompt"] == plain()[0]["prompt"] else row["prompt"]} for row in plain()]
    with entered(tmp_path / "p") as project:
        (tmp_path / "pairs.jsonl").write_bytes(lines(rows))
        said = start("explicit-prompt.yaml", tmp_path / "pairs.jsonl", "source.held_out=0")
        assert "Prompts of more than 150 tokens (source.max_prompt_tokens): 1" in said
        assert machine.load_recorded(project, "people")[(0, "fit_reward", 1)]["given"] == 24
        assert long not in [item.comparison.prompt for item in stored(project.store, "people.r1")]


@pytest.mark.parametrize("value", ["-1", "many", "true", "[]", "[1]", "0.0", "1.0", "-0.1", "1.5", "20.0"])
def test_groups_to_hold_out_are_a_number_a_share_or_names(value: str):
    with pytest.raises(ConfigError, match=r"`source.held_out`.*a list of their names"):
        read_config(ROOT / "configs" / "explicit-prompt.yaml", {"source.held_out": parse_override(f"x={value}")[1]})


def test_a_share_that_is_no_number_is_refused():
    tree = read_tree(ROOT / "configs" / "explicit-prompt.yaml", "configuration file", "configs/")
    tree["source"]["held_out"] = float("nan")
    with pytest.raises(ConfigError, match=r"`source.held_out`.*a share of them"):
        check_config(tree, "here")


@pytest.mark.parametrize("config", ["conversational.yaml", "explicit-prompt.yaml", "hh-dialogues.yaml", "table.yaml"])
def test_where_each_prompt_is_a_group_a_share_of_them_is_held_out(tmp_path: Path, config: str):
    """2,000 prompts with a pair each: the example's own setting holds out 200 of them, which an accuracy can be read from."""
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Is {number} even?", "chosen": f"As {number} is.", "rejected": "No."} for number in range(2000)]
    file.write_bytes(lines(rows))
    counts = part_pairs(read_config(ROOT / "configs" / config), {"pairs": file}).counts
    assert (counts["held"], counts["train"], len(counts["held_groups"])) == (200, 1800, 200)
    assert len(data_lines(counts)) == 1


def test_groups_are_held_out_by_name(tmp_path: Path):
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(lines(plain()))

    def parted(held_out: Any) -> Parted:
        return part_pairs(read_config(ROOT / "configs" / "explicit-prompt.yaml", {"source.held_out": held_out}), {"pairs": file})

    named = sorted({pair.group for pair in parted(0).train})[1:3]
    found = parted(named)
    assert {pair.group for pair in found.held} == set(named) == set(found.counts["held_groups"])
    assert not {pair.group for pair in found.train} & set(named)
    with pytest.raises(DataError, match="there is no group"):
        parted([named[0] + "x"])


@pytest.mark.parametrize(("held", "said"), [(21, ["some 21 points"]), (99, ["some 10 points"]), (100, []), (0, [])])
def test_an_accuracy_on_few_pairs_is_said_to_be_unsure(held: int, said: list[str]):
    remarks = data_lines({"train": 2000, "held": held, "held_groups": ["a"], "leaked": 0, "dropped": {}})[1:]
    assert len(remarks) == len(said)
    assert all(part in remark for part, remark in zip(said, remarks, strict=True))


@pytest.mark.parametrize(
    ("settings", "most", "words"),
    [
        ((), 30_000_000, "at most its first 30,000,000 bytes, unpacked, are read, for 50% of what the base policy"),
        (("base.text_share=0",), 2_000_000, "at most its first 2,000,000 bytes, unpacked, are read, for the vocabulary alone"),
    ],
)
def test_a_dry_run_says_what_is_read_of_a_text_and_what_is_held_out(tmp_path: Path, settings, most: int, words: str):
    """The text's size and how much of it is read; of the held-out pairs, in words, how many were seen in training."""
    with entered(tmp_path / "p"):
        pairs, text = tmp_path / "pairs.jsonl", tmp_path / "novel.txt.gz"
        pairs.write_bytes(lines(plain()))
        text.write_bytes(gzip.compress(b"Call me Ishmael.\n\n"))
        given = [word for setting in (*SMALL, *settings) for word in ("--set", setting)]
        asked = ["run", str(ROOT / "configs/explicit-prompt.yaml"), "--pairs", str(pairs), "--text", str(text), *given]
        said = command(*asked, "--dry-run")
        size = text.stat().st_size
        assert f"{text}: plain text, {size:,} bytes on disk; {words}" in said
        assert "6 held out (2 whole groups; 0 of these pairs share a completion with a pair trained on)" in said
        found = json.loads(command(*asked, "--dry-run", "--json"))["text"]
        assert (found["path"], found["bytes"], found["at_most"]) == (str(text), size, most)


def test_a_remark_is_made_once(tmp_path: Path):
    """The opening ones by the run, one on a fit by the command that fitted; none again by a command that did nothing new."""
    with entered(tmp_path / "p"):
        (tmp_path / "pairs.jsonl").write_bytes(lines(plain()))
        said = [start("explicit-prompt.yaml", tmp_path / "pairs.jsonl", "rounds=2"), advance()]
        command("label", "people", "--as", "ann", keys="111111")
        said.append(advance())
        decide("decline", "people.r1")
        said += [advance(), advance()]
        for remark, where in (
            ("too small to write fluent text", 0), ("18 pairs to train on", 0), ("(first fit): accuracy", 0),
            ("(after round 1): accuracy", 3),
        ):  # fmt: skip
            assert [text.count(remark) for text in said] == [int(i == where) for i in range(5)]


def test_a_text_beside_a_model_on_disk_is_said_not_to_be_read(tmp_path: Path):
    (tmp_path / "novel.txt").write_text("Call me Ishmael.\n")
    settings = read_config(ROOT / "configs" / "explicit-prompt.yaml", {"base.model": "somewhere"})
    assert any("it is not read" in line for line in plan_lines("c", settings, {"text": tmp_path / "novel.txt"}, {}))


def test_preferences_that_were_altered_after_they_were_frozen_are_not_learnt_from(tmp_path: Path, monkeypatch):
    """One word of the frozen copy turned round before the gate: the stage refuses and names the file, until it is back."""
    written: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        ProgressFile, "_write", lambda self, done, total, *rest, **more: written.append((self._part, done, total))
    )
    with entered(tmp_path / "p") as project:
        (tmp_path / "pairs.jsonl").write_bytes(lines(plain()))
        start("explicit-prompt.yaml", tmp_path / "pairs.jsonl", "rounds=1")
        # What follows the fit is heard of, too: the held-out pairs, both sides of six, are counted as they are scored.
        assert ("drawing the reference samples", 0, 0) in written
        assert ("scoring held-out pairs", 12, 12) in written
        command("label", "people", "--as", "ann", keys="111111")
        frozen = project.state / "snapshots" / "people-source" / "pairs-train.jsonl"
        good = frozen.read_text()
        frozen.write_text(good.replace("helps", "harms", 1))
        assert "people-source: pairs-train.jsonl has other bytes" in advance(status=3)
        frozen.write_text(good)
        assert "rlback gate show people.r1" in advance()


def test_without_a_prompt_that_fits_the_setting_to_change_is_named(tmp_path: Path):
    """Prompts of five words and a limit of four tokens: the campaign stops with the file and the setting."""
    with entered(tmp_path / "p"):
        (tmp_path / "pairs.jsonl").write_bytes(lines(plain()))
        said = start("explicit-prompt.yaml", tmp_path / "pairs.jsonl", "source.max_prompt_tokens=4", status=3)
        assert "pairs.jsonl has at most 4 tokens" in said
        assert "source.max_prompt_tokens" in said


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "config", "pairs"),
    [
        ("hh-rlhf-harmless-test/test.jsonl.gz", "hh-dialogues.yaml", 2303),
        ("oasst-en100/pairs.jsonl.gz", "conversational.yaml", 754),
    ],
)
def test_public_preferences_are_read_and_a_reward_model_fitted(project: Project, file: str, config: str, pairs: int):
    """The example configuration of each public set reads it, keeps 20 conversations apart and fits a few steps."""
    tree = dict(parse_override(text) for text in (*SMALL, "source.held_out=20", "reward_model.training.batch=256"))
    settings = read_config(ROOT / "configs" / config, tree)
    name = machine.start(project, settings, Actor("ada", "human"), inputs={"pairs": public(file)})
    mirror = MlflowStore(project.root)
    with machine.holding(project, name):
        machine.prepare(project, name, mirror)
        for stage in ("data", "base", "snapshot", "fit_reward"):
            due = machine.what_next(project, name)
            assert due == Step(0, stage)
            output = machine.run_step(project, name, due, mirror)
    data = machine.load_recorded(project, name)[(0, "data", 1)]
    assert (data["pairs"], len(data["held_groups"])) == (pairs, 20)
    assert output["given"] == data["train"]
    assert 0 <= output["held_out"]["accuracy"] <= 1

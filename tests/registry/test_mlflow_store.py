"""MLflow as the store of checkpoints: whole or not listed, once per key, verified, inside the project."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import rlback
from rlback.errors import CheckpointError, ConfigError, RegistryError
from rlback.models.manifest import FILES, hash_file, make_manifest, manifest_json, verify_checkpoint
from rlback.records import CheckpointRef
from rlback.registry.mlflow_rules import short, short_key, tracking_uri
from rlback.registry.mlflow_store import MlflowStore, NewCheckpoint

SOURCE = Path(rlback.__file__).parents[1]


def make_checkpoint(directory: Path, seed: int, kind: str = "policy") -> str:
    """A checkpoint of one byte tensor; returns its digest."""
    directory.mkdir(parents=True)
    header = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    for name in FILES[kind]:
        text = struct.pack("<Q", len(header)) + header + struct.pack("<I", seed)
        (directory / name).write_bytes(text if name.endswith(".safetensors") else b'{"seed": %d}' % seed)
    manifest = make_manifest(kind, [hash_file(path) for path in directory.iterdir()])
    (directory / "manifest.json").write_text(manifest_json(manifest))
    return manifest.digest


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowStore]:
    """One prepared store, used from a directory that must stay empty."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(elsewhere)
        store = MlflowStore(tmp_path_factory.mktemp("project with space"))
        store.prepare()
        yield store
        assert list(elsewhere.iterdir()) == []
        assert sorted(path.name for path in store.root.iterdir()) == [".rlback", "mlruns"]


@pytest.fixture
def stored(store: MlflowStore, tmp_path: Path, request: pytest.FixtureRequest) -> CheckpointRef:
    """A checkpoint of this test alone."""
    digest = make_checkpoint(tmp_path / "source", zlib.crc32(request.node.nodeid.encode()))
    return store.log_checkpoint(
        tmp_path / "source", experiment="shared", name="step", digest=digest, kind="policy"
    )


def statuses(store: MlflowStore, digest: str) -> list[str]:
    """The status of every LoggedModel with a digest, straight from the database."""
    query = (
        "SELECT m.status FROM logged_models m JOIN logged_model_tags t USING (model_id) WHERE t.tag_value = ?"
    )
    with sqlite3.connect(store.root / "mlruns" / "mlflow.db") as database:
        return [{1: "PENDING", 2: "READY"}[row[0]] for row in database.execute(query, (digest,))]


def test_a_stored_checkpoint_has_exactly_its_files(store: MlflowStore, tmp_path: Path):
    """The stored directory holds the same bytes, read-only; later changes of the source do not reach it."""
    source = tmp_path / "source"
    digest = make_checkpoint(source, 1)
    ref = store.log_checkpoint(
        source, experiment="one", name="policy-1", digest=digest, kind="policy", step=40, tags={"a": "b"},
        metrics={"kl": 0.5},
    )  # fmt: skip
    place = store.location(ref.model_id)
    assert ref == CheckpointRef(digest, "policy", ref.model_id, str(place))
    assert place.is_relative_to(store.root / "mlruns" / "artifacts" / "one")
    assert files(place) == files(source)
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o444}
    (source / "config.json").write_text("{}")
    assert verify_checkpoint(place, digest).kind == "policy"
    tags = store._client.get_logged_model(ref.model_id).tags
    assert {
        "a": "b",
        "digest": digest,
        "kind": "policy",
        "step": "40",
        "metric.kl": "0.5",
    }.items() <= tags.items()


def test_the_same_checkpoint_is_stored_once(store: MlflowStore, tmp_path: Path):
    """Once per experiment, name and digest: again, in one batch, and from another instance."""
    digest = make_checkpoint(tmp_path / "a", 2)
    new = NewCheckpoint(tmp_path / "a", "policy", digest, "policy")
    first, second = store.log_checkpoints([new, new], experiment="twice")
    again = MlflowStore(store.root).log_checkpoints([new], experiment="twice")
    assert first == second == again[0] == store.find(digest)
    assert statuses(store, digest) == ["READY"]
    other = store.log_checkpoints([new], experiment="other")[0]
    assert other.model_id != first.model_id
    assert store.find(digest) == first
    assert store.find("0" * 64) is None


def test_our_own_work_is_linked_not_copied(store: MlflowStore):
    """Directories under .rlback/ are never written again, so their bytes are shared and not doubled."""
    source = store.root / ".rlback" / "work" / "s"
    digest = make_checkpoint(source, 3)
    ref = store.log_checkpoint(source, experiment="one", name="s", digest=digest, kind="policy")
    weights = Path(ref.location) / "model.safetensors"
    assert weights.stat().st_ino == (source / "model.safetensors").stat().st_ino


def test_a_batch_keeps_order_and_metrics(store: MlflowStore, tmp_path: Path):
    """References come back in order; metrics are found with the run and with each checkpoint."""
    news = []
    for i in range(3):
        digest = make_checkpoint(tmp_path / f"{i}", 10 + i)
        new = NewCheckpoint(tmp_path / f"{i}", "policy", digest, "policy", step=i * 5, metrics={"kl": i / 4})
        news.append(new)
    run = store.start_run("batch", "train", key="c/1/batch")
    refs = store.log_checkpoints(news, experiment="batch", run_id=run)
    assert [ref.digest for ref in refs] == [new.digest for new in news]
    history = store._client.get_metric_history(run, "kl")
    assert [(point.step, point.value) for point in history] == [(0, 0.0), (5, 0.25), (10, 0.5)]
    third = store._client.get_logged_model(refs[2].model_id)
    assert [(metric.key, metric.value) for metric in third.metrics] == [("kl", 0.5)]
    assert third.source_run_id == run


@pytest.mark.parametrize("damage", ["byte", "missing", "extra", "link", "digest", "kind"])
def test_a_wrong_directory_is_never_stored(store: MlflowStore, tmp_path: Path, damage: str):
    """Altered, missing, extra or linked files, another digest or kind: refused, and nothing is listed."""
    source, kind = tmp_path / "source", "policy"
    digest = make_checkpoint(source, 20)
    if damage == "byte":
        content = bytearray((source / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (source / "model.safetensors").write_bytes(content)
    elif damage == "missing":
        (source / "tokenizer.json").unlink()
    elif damage == "extra":
        (source / "model.bin").write_bytes(b"x")
    elif damage == "link":
        (source / "config.json").rename(tmp_path / "config.json")
        (source / "config.json").symlink_to(tmp_path / "config.json")
    elif damage == "digest":
        digest = "f" * 64
    else:
        kind = "reward_model"
    with pytest.raises(CheckpointError):
        store.log_checkpoint(source, experiment="wrong", name=damage, digest=digest, kind=kind)
    assert store.find(digest) is None
    assert not [
        path for path in store.artifacts.glob("wrong/models/*/*") if path.name.startswith("artifacts")
    ]


def test_versions_are_registered_once_per_key(store: MlflowStore, stored: CheckpointRef, tmp_path: Path):
    """The same key gives the same version, another key the next; a key never changes its weights."""
    first = store.create_version("keyed", stored, key="c/1/candidate", tags={"round": 1})
    assert first == store.create_version("keyed", stored, key="c/1/candidate") == 1
    assert store.create_version("keyed", stored, key="c/2/candidate") == 2
    digest = make_checkpoint(tmp_path / "b", 31)
    other = store.log_checkpoint(tmp_path / "b", experiment="shared", name="b", digest=digest, kind="policy")
    with pytest.raises(RegistryError, match="other weights"):
        store.create_version("keyed", other, key="c/1/candidate")
    found = store.versions("keyed")
    assert [info.version for info in found] == [1, 2]
    assert (found[0].digest, found[0].model_id, found[0].location) == (
        stored.digest, stored.model_id, stored.location,
    )  # fmt: skip
    assert {"round": "1", "key": "c/1/candidate", "digest": stored.digest}.items() <= found[0].tags.items()
    assert "keyed" in store.policies()
    assert store.versions("unknown") == []


def test_aliases_move_and_go(store: MlflowStore, stored: CheckpointRef):
    """An alias is at one version, moves, is shown with its version, and can be deleted twice."""
    for key in ("a", "b"):
        store.create_version("aliased", stored, key=key)
    assert store.aliases("aliased") == {}
    store.set_alias("aliased", "approved", 1)
    store.set_alias("aliased", "candidate", 2)
    store.set_alias("aliased", "approved", 2)
    assert store.aliases("aliased") == {"approved": 2, "candidate": 2}
    assert [info.aliases for info in store.versions("aliased")] == [(), ("approved", "candidate")]
    store.delete_alias("aliased", "candidate")
    store.delete_alias("aliased", "candidate")
    assert store.aliases("aliased") == {"approved": 2}
    with pytest.raises(RegistryError, match="set an alias"):
        store.set_alias("aliased", "approved", 9)
    assert store.aliases("unknown") == {}


def test_tags_of_a_version(store: MlflowStore, stored: CheckpointRef):
    """Tags are set and changed one by one; the others stay; long ones are kept as far as they can be."""
    store.create_version("tagged", stored, key="a", tags={"status": "candidate", "kept": 1})
    store.tag_version("tagged", 1, {"status": "declined", "reason": "ß" * 20_000, "odd key?": {"b": [1]}})
    tags = store.versions("tagged")[0].tags
    assert (tags["status"], tags["kept"], tags["odd key_"]) == ("declined", "1", '{"b": [1]}')
    assert tags["reason"].endswith(hashlib.sha256(("ß" * 20_000).encode()).hexdigest())


@pytest.mark.parametrize(
    "name", ["latest", "LATEST", "v1", "V12", "a/b", "a b", "", "../x", "ä", "a\n", "a'b"]
)
def test_names_that_cannot_be_used(store: MlflowStore, stored: CheckpointRef, name: str):
    """Reserved names, paths, quotes and blanks are refused before MLflow sees them."""
    with pytest.raises(ConfigError, match="cannot be the name"):
        store.create_version(name, stored, key="k")
    with pytest.raises(ConfigError, match="cannot be the name"):
        store.set_alias("policy", name, 1)
    with pytest.raises(ConfigError, match="cannot be the name"):
        store.start_run(name, "run", key="k")


def test_keys_and_digests_cannot_break_out_of_a_search(store: MlflowStore, stored: CheckpointRef):
    """Quotes in a key or digest are refused."""
    with pytest.raises(RegistryError, match="key"):
        store.create_version("policy", stored, key="a' or '1'='1")
    with pytest.raises(CheckpointError, match="root digest"):
        store.find("a' or '1'='1")


def test_a_version_needs_a_whole_checkpoint(store: MlflowStore, stored: CheckpointRef):
    """A reference with another digest, or to nothing, cannot be registered."""
    forged = CheckpointRef("a" * 64, "policy", stored.model_id, stored.location)
    with pytest.raises(RegistryError, match="cannot become a version"):
        store.create_version("forged", forged, key="a")
    with pytest.raises(RegistryError, match="register a version"):
        store.create_version("forged", CheckpointRef("a" * 64, "policy", "m-none", ""), key="a")
    assert store.versions("forged") == []


def test_a_forged_place_leads_nowhere(store: MlflowStore, stored: CheckpointRef):
    """A place written into the database from outside is refused, not opened."""
    with sqlite3.connect(store.root / "mlruns" / "mlflow.db") as database:
        change = "UPDATE logged_models SET artifact_location = ? WHERE model_id = ?"
        database.execute(change, ("file:///etc", stored.model_id))
    with pytest.raises(RegistryError, match="no checkpoint is kept"):
        store.location(stored.model_id)


def test_a_project_can_be_moved(store: MlflowStore, stored: CheckpointRef):
    """Places follow the project directory, although MLflow stores absolute ones."""
    moved = store.root.with_name("moved")
    store.root.rename(moved)
    try:
        there = MlflowStore(moved)
        found = there.find(stored.digest)
        assert found is not None
        assert Path(found.location).is_relative_to(moved)
        assert verify_checkpoint(there.location(stored.model_id), stored.digest)
    finally:
        moved.rename(store.root)


def test_lost_files_are_named_and_stored_again(store: MlflowStore, stored: CheckpointRef, tmp_path: Path):
    """Files deleted by hand are an error with the place; storing the same checkpoint brings them back."""
    Path(stored.location).rename(tmp_path / "taken")
    with pytest.raises(CheckpointError, match="gone"):
        store.location(stored.model_id)
    again = store.log_checkpoint(
        tmp_path / "source", experiment="shared", name="step", digest=stored.digest, kind="policy"
    )
    assert again == stored
    assert files(store.location(stored.model_id)) == files(tmp_path / "taken")


def test_runs_are_found_again_by_their_key(store: MlflowStore):
    """A repeated start gives the same run and adds missing params; points logged twice are kept once."""
    long = "x" * 30_000
    run = store.start_run("runs", "optimise", key="c/1/optimise", params={"beta": 0.1}, tags={"round": 1})
    params = {"beta": 0.1, "prompt": long, "list": [1, 2], "what?": None}
    params |= {f"p{i}": i for i in range(150)}
    assert store.start_run("runs", "optimise", key="c/1/optimise", params=params) == run
    assert store.start_run("runs", "optimise", key="c/2/optimise") != run
    points = [(step, {"kl": step / 8, "none": None, "nan": float("nan")}) for step in range(600)]
    for _ in range(2):
        store.log_metrics(run, points)
    store.log_metrics(run, [])
    store.end_run(run, "FINISHED")
    data = store._client.get_run(run).data
    assert (data.params["beta"], data.params["list"], data.params["p149"]) == ("0.1", "[1, 2]", "149")
    assert data.params["prompt"].endswith(hashlib.sha256(long.encode()).hexdigest())
    history = store._client.get_metric_history(run, "kl")
    assert [(point.step, point.value) for point in history] == [(step, step / 8) for step in range(600)]
    assert data.metrics["nan"] != data.metrics["nan"]
    assert "none" not in data.metrics
    assert store._client.get_run(run).info.status == "FINISHED"
    with pytest.raises(RegistryError, match="log metrics"):
        store.log_metrics("0" * 32, [(0, {"kl": 1.0})])


def test_long_values_stay_apart():
    """Two long values that differ at the end only stay different; short ones stay as they are."""
    assert short("a" * 5000) == "a" * 5000
    assert short("a" * 9000) != short("a" * 9001)
    assert len(short("a" * 9000)) < 6000
    assert short_key("k" * 300) != short_key("k" * 301)
    assert len(short_key("k" * 300)) == 250
    assert short_key("gate.n/min") == "gate.n/min"
    assert short_key("/../a=b") == "a_b"


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The project's own database by default; a relative one is taken from the project; others are refused."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    for given, meant in (
        ("sqlite:///other.db", f"sqlite:///{tmp_path}/other.db"),
        ("sqlite:////abs/other.db", "sqlite:////abs/other.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("postgresql+psycopg://u:p@host/mlflow", "postgresql+psycopg://u:p@host/mlflow"),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
        assert tracking_uri(tmp_path) == meant
    for refused in ("mlruns", "file:///tmp/mlruns", "sqlite://", "databricks", "sqlite:///a%20b?mode=ro"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", refused)
        with pytest.raises(ConfigError, match="cannot be used"):
            tracking_uri(tmp_path)


WORKERS = """
import json, os, sys
from pathlib import Path
from rlback.registry import mlflow_rules
from rlback.registry.mlflow_access import refusals
from rlback.registry.mlflow_store import MlflowStore
assert not {"mlflow", "torch", "dvc"} & set(sys.modules), "imported too early"
with refusals("import"):
    import mlflow.tracking, mlflow.store.tracking.sqlalchemy_store

def work(source, digest, task):
    store = MlflowStore(Path("project"))
    store.prepare()
    if task == "die-before-finalize":
        store._client.finalize_logged_model = lambda *_: os.kill(os.getpid(), 9)
    if task == "die-before-rename":
        mlflow_rules.verify_checkpoint = lambda *_: os.kill(os.getpid(), 9)
    ref = store.log_checkpoint(Path(source), experiment="e", name="p", digest=digest, kind="policy", step=1)
    print(ref, [store.create_version("policy", ref, key=f"c/{i}") for i in range(3)], flush=True)

children = []
for number, arguments in enumerate(json.loads(sys.argv[1])):
    if not (child := os.fork()):
        for stream in (1, 2):
            os.dup2(os.open(f"worker-{number}.{stream}", os.O_WRONLY | os.O_CREAT), stream)
        work(*arguments)
        os._exit(0)
    children.append(child)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


def test_processes_at_once_and_killed(tmp_path: Path):
    """Four processes make one database; two agree on one checkpoint and its versions, two die half-way.

    What the dead left is never listed and is completed by the next call.
    """
    root, home = tmp_path / "project", tmp_path / "home"
    root.mkdir()
    home.mkdir()
    digests = [make_checkpoint(tmp_path / f"source-{i}", 40 + i) for i in range(3)]
    tasks = ((0, "live"), (0, "live"), (1, "die-before-finalize"), (2, "die-before-rename"))
    work = json.dumps([[str(tmp_path / f"source-{i}"), digests[i], task] for i, task in tasks])
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), "HOME": str(home)}
    # Forked from one process, because each would else spend seconds on importing MLflow.
    ended = subprocess.run(
        [sys.executable, "-c", WORKERS, work],
        cwd=tmp_path, env=env, text=True, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    said = [(tmp_path / f"worker-{n}.{stream}").read_text() for n in range(4) for stream in (1, 2)]
    assert json.loads(ended.stdout) == [0, 0, -signal.SIGKILL, -signal.SIGKILL], said
    assert said[0] == said[2]
    assert said[0].endswith("[1, 2, 3]\n")
    assert [*said[1::2], ended.stderr] == [""] * 5
    assert list(home.iterdir()) == []

    store = MlflowStore(root)
    assert [info.version for info in store.versions("policy")] == [1, 2, 3]
    assert statuses(store, digests[0]) == ["READY"]
    assert store.find(digests[0]) is not None
    for i in (1, 2):
        assert statuses(store, digests[i]) == ["PENDING"]
        assert store.find(digests[i]) is None
        ref = store.log_checkpoint(
            tmp_path / f"source-{i}", experiment="e", name="p", digest=digests[i], kind="policy", step=1
        )
        assert statuses(store, digests[i]) == ["READY"]
        assert files(store.location(ref.model_id)) == files(tmp_path / f"source-{i}")
    left = {path.name for path in (root / "mlruns").rglob("*") if path.name.endswith(".part")}
    assert left == set()

"""Data versions: what freezing promises, and that damage DVC does not see is seen."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from rlback.data import manifest as manifests
from rlback.data.snapshot import DataVersion, freeze, pointer, push, restore, verify
from rlback.errors import DataError

SOURCE = Path(manifests.__file__).parents[2]

# Two files of 5 and 3 bytes; the sums are what sha256sum and md5sum print for them.
HELLO = (
    "hello",
    "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
    "5d41402abc4b2a76b9719d911017c592",
)
ABC = (
    "abc",
    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    "900150983cd24fb0d6963f7d28e17f72",
)


def project(root: Path) -> Path:
    (root / "data" / "labels").mkdir(parents=True)
    (root / "data" / "b.jsonl").write_text(HELLO[0])
    (root / "data" / "labels" / "a.jsonl").write_text(ABC[0])
    return root


def cached(root: Path, md5: str) -> Path:
    return root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]


def append_unseen(path: Path) -> None:
    """Appends to a cached object and leaves it protected, which DVC takes for a proof that it is whole."""
    path.chmod(0o644)
    with path.open("ab") as stream:
        stream.write(b"!")
    path.chmod(0o444)


@pytest.fixture
def frozen(tmp_path: Path) -> tuple[Path, DataVersion]:
    root = project(tmp_path / "project")
    return root, freeze(root, root / "data")


def test_scan_gives_known_sums(tmp_path: Path):
    """Sizes, SHA-256 and MD5 of two known files, sorted by path."""
    found = manifests.scan(project(tmp_path) / "data")
    assert found.files == (
        manifests.File("b.jsonl", 5, HELLO[1], HELLO[2]),
        manifests.File("labels/a.jsonl", 3, ABC[1], ABC[2]),
    )
    assert found.size == 8


def test_freezing_writes_pointer_and_manifest(frozen: tuple[Path, DataVersion]):
    """The version counts files and bytes, and the pointer beside the directory names the same version."""
    root, version = frozen
    assert (version.files, version.size) == (2, 8)
    assert version.md5.endswith(".dir")
    assert f"md5: {version.md5}" in (root / "data.dvc").read_text()
    assert pointer(root, root / "data") == version
    noted = json.loads((root / ".rlback" / "manifests" / f"{version.md5}.json").read_text())
    assert noted["sha256"] == version.sha256
    assert ["labels/a.jsonl", 3, ABC[1], ABC[2]] in noted["files"]


def test_freezing_again_changes_nothing(frozen: tuple[Path, DataVersion]):
    """An unchanged directory gives the same version and touches neither pointer nor manifest."""
    root, version = frozen
    before = {
        path: path.stat().st_mtime_ns for path in (root / "data.dvc", *(root / ".rlback").rglob("*.json"))
    }
    assert freeze(root, Path("data")) == version
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_same_bytes_give_the_same_version_anywhere(frozen: tuple[Path, DataVersion], tmp_path: Path):
    """Neither the project, the name of the directory, file times nor modes enter a version."""
    _, version = frozen
    other = project(tmp_path / "elsewhere" / "deep")
    hidden = other / ".rlback" / "snapshots" / "round-1"
    hidden.parent.mkdir(parents=True)
    (other / "data").rename(hidden)
    os.utime(hidden / "b.jsonl", (0, 0))
    (hidden / "b.jsonl").chmod(0o600)
    assert freeze(other, hidden) == version
    assert (hidden.parent / "round-1.dvc").is_file()


def test_one_changed_byte_gives_another_version(frozen: tuple[Path, DataVersion]):
    """A byte, a name or a move between files changes both digests."""
    root, version = frozen
    (root / "data" / "b.jsonl").write_text("hellp")
    changed = freeze(root, root / "data")
    (root / "data" / "b.jsonl").rename(root / "data" / "c.jsonl")
    renamed = freeze(root, root / "data")
    assert len({version.md5, changed.md5, renamed.md5}) == 3
    assert len({version.sha256, changed.sha256, renamed.sha256}) == 3
    assert pointer(root, root / "data") == renamed


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda data: (data / "b.jsonl").write_text("hellp"), "b.jsonl has other bytes"),
        (lambda data: (data / "b.jsonl").write_text("hello!"), "b.jsonl has 6 bytes, the version has 5"),
        (lambda data: (data / "labels" / "a.jsonl").unlink(), "labels/a.jsonl is missing"),
        (lambda data: (data / "new").write_text("x"), "new does not belong"),
    ],
)
def test_verify_names_the_file(frozen: tuple[Path, DataVersion], damage, named: str):
    """An altered, longer, missing or extra file is named; untouched data pass."""
    root, version = frozen
    verify(root, root / "data", version)
    damage(root / "data")
    with pytest.raises(DataError, match=named):
        verify(root, root / "data", version)


def test_verify_reads_block_by_block(tmp_path: Path):
    """A file of 64 MiB is compared with less than 8 MiB of memory."""
    root = project(tmp_path)
    os.truncate(root / "data" / "b.jsonl", 64 << 20)
    scanned = manifests.scan(root / "data")
    tracemalloc.start()
    try:
        verify(root, root / "data", DataVersion(scanned.md5, scanned.sha256, 2, scanned.size))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_verify_needs_no_manifest_file(frozen: tuple[Path, DataVersion]):
    """Without `.rlback/manifests` the recorded root digest alone still tells good from bad."""
    root, version = frozen
    (root / ".rlback" / "manifests" / f"{version.md5}.json").unlink()
    verify(root, root / "data", version)
    (root / "data" / "b.jsonl").write_text("hellp")
    with pytest.raises(DataError, match="root digest"):
        verify(root, root / "data", version)


def test_an_altered_manifest_is_refused(frozen: tuple[Path, DataVersion]):
    """A manifest made to fit altered data does not add up to the recorded digest."""
    root, version = frozen
    (root / "data" / "b.jsonl").write_text("hellp")
    path = root / ".rlback" / "manifests" / f"{version.md5}.json"
    path.write_text(path.read_text().replace(HELLO[1], "0" * 64))
    with pytest.raises(DataError, match="altered"):
        verify(root, root / "data", version)


def test_restoring_an_old_version(frozen: tuple[Path, DataVersion], tmp_path: Path):
    """An old version comes back byte for byte, beside what is there now, and into a fresh directory only."""
    root, version = frozen
    (root / "data" / "b.jsonl").write_text("later")
    freeze(root, root / "data")
    restore(root, version, tmp_path / "old")
    assert (tmp_path / "old" / "b.jsonl").read_text() == "hello"
    assert (tmp_path / "old" / "labels" / "a.jsonl").read_text() == "abc"
    assert (root / "data" / "b.jsonl").read_text() == "later"
    with pytest.raises(DataError, match="exists already"):
        restore(root, version, tmp_path / "old")


def test_a_damaged_cache_is_seen_and_healed(frozen: tuple[Path, DataVersion], tmp_path: Path):
    """Bytes appended to DVC's protected cache: restoring names the file, freezing good data mends it."""
    root, version = frozen
    append_unseen(cached(root, HELLO[2]))
    with pytest.raises(DataError, match=r"b\.jsonl has 6 bytes"):
        restore(root, version, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["project"]
    assert freeze(root, root / "data") == version
    restore(root, version, tmp_path / "out")
    assert (tmp_path / "out" / "b.jsonl").read_text() == "hello"


def test_a_listing_cannot_lead_outside(frozen: tuple[Path, DataVersion], tmp_path: Path):
    """A listing with its right MD5 but a path above the directory is refused before anything is written."""
    root, _ = frozen
    listing = json.dumps([{"md5": HELLO[2], "relpath": "../../stolen"}]).encode()
    name = hashlib.md5(listing).hexdigest() + ".dir"
    cached(root, name).parent.mkdir(parents=True, exist_ok=True)
    cached(root, name).write_bytes(listing)
    with pytest.raises(DataError, match="outside"):
        restore(root, DataVersion(name, "0" * 64, 1, 5), tmp_path / "a" / "b" / "out")
    assert not list(tmp_path.rglob("stolen"))


def test_a_remote_brings_back_a_lost_cache(frozen: tuple[Path, DataVersion], tmp_path: Path):
    """A pushed version is fetched again when the cache is gone; without a remote the remedy is said."""
    root, version = frozen
    with pytest.raises(DataError, match="remote"):
        push(root, version)
    remote = f'[core]\n    remote = far\n[remote "far"]\n    url = {tmp_path / "far"}\n'
    (root / ".dvc" / "config.local").write_text(remote)
    append_unseen(cached(root, ABC[2]))
    with pytest.raises(DataError, match="altered"):
        push(root, version)
    freeze(root, root / "data")
    push(root, version)
    (root / ".dvc" / "cache").rename(tmp_path / "lost")
    restore(root, version, tmp_path / "out")
    assert (tmp_path / "out" / "labels" / "a.jsonl").read_text() == "abc"


def test_links_and_special_files_are_refused(frozen: tuple[Path, DataVersion], tmp_path: Path):
    """A link to a file or a directory, a pipe, a linked target and a place outside are all refused."""
    root, version = frozen
    data = root / "data"
    for name, make in (
        ("link", lambda path: path.symlink_to(data / "b.jsonl")),
        ("dir", lambda path: path.symlink_to(tmp_path)),
        ("pipe", os.mkfifo),
    ):
        make(data / name)
        with pytest.raises(DataError, match=name):
            freeze(root, data)
        with pytest.raises(DataError, match=name):
            verify(root, data, version)
        (data / name).unlink()
    (root / "alias").symlink_to(data)
    for outside in (root / "alias", tmp_path, root, Path("../project")):
        with pytest.raises(DataError, match="not a directory inside"):
            freeze(root, outside)
    (root / "empty").mkdir()
    with pytest.raises(DataError, match="holds no file"):
        freeze(root, root / "empty")
    assert pointer(root, root / "empty") is None


def test_ignored_files_are_not_left_out_silently(frozen: tuple[Path, DataVersion]):
    """What .dvcignore hides from DVC would be missing from the version: freezing says so."""
    root, _ = frozen
    (root / ".dvcignore").write_text("*.tmp\n")
    (root / "data" / "x.tmp").write_text("x")
    with pytest.raises(DataError, match="dvcignore"):
        freeze(root, root / "data")


def test_a_pointer_written_by_dvc_alone_has_no_digest_of_ours(frozen: tuple[Path, DataVersion]):
    """The digest noted for one MD5 is not passed off as that of another; damage is an error."""
    root, version = frozen
    path = root / "data.dvc"
    # DVC keeps foreign fields when it writes a new MD5 at the top.
    path.write_text(path.read_text().replace(f"- md5: {version.md5}", f"- md5: {'0' * 32}.dir"))
    assert pointer(root, root / "data") == DataVersion("0" * 32 + ".dir", "", 2, 8)
    path.write_text("outs: []\n")
    with pytest.raises(DataError, match="pointer"):
        pointer(root, root / "data")


@pytest.mark.parametrize("half", ["", "outs:\n- md5: 0123", "outs: {", "\0"])
def test_a_half_written_pointer_is_written_anew(frozen: tuple[Path, DataVersion], half: str):
    """What a full disk or a kill inside DVC may leave of the pointer does not stand in the way of freezing."""
    root, version = frozen
    (root / "data.dvc").write_text(half)
    assert freeze(root, root / "data") == version
    assert pointer(root, root / "data") == version


def test_notes_in_a_pointer_are_kept(frozen: tuple[Path, DataVersion]):
    """A description and fields of others stay when a new version is frozen."""
    root, _ = frozen
    path = root / "data.dvc"
    path.write_text(path.read_text() + "  theirs: 7\ndesc: ours\n")
    (root / "data" / "b.jsonl").write_text("later")
    version = freeze(root, root / "data")
    assert pointer(root, root / "data") == version
    assert "theirs: 7" in path.read_text()
    assert "desc: ours" in path.read_text()


def test_what_dvc_could_not_copy_is_an_error_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """DVC only logs a failed copy and goes on; freezing raises it, and writes no pointer to what is not there."""
    root = project(tmp_path / "project")

    def full(source: str, target: str, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", source, None, target)

    with monkeypatch.context() as patch:
        patch.setattr("dvc_objects.fs.local.copyfile", full)
        with pytest.raises(DataError, match=r"No space left on device.*\.jsonl"):
            freeze(root, root / "data")
    assert pointer(root, root / "data") is None
    assert freeze(root, root / "data") == pointer(root, root / "data")


WORKER = """
import os, sys, time
from pathlib import Path
from rlback.data.snapshot import freeze
assert not any(name == "dvc" or name.startswith("dvc.") for name in sys.modules), "dvc imported too early"
root, target = Path(sys.argv[1]), sys.argv[2]
if target == "kill":
    import rlback.data.snapshot as snapshot
    snapshot._keep = lambda *_: os.kill(os.getpid(), 9)
    target = "data"
else:
    import dvc.repo
(root / f"ready-{os.getpid()}").touch()
while not (root / "go").exists():
    time.sleep(0.01)
print(freeze(root, Path(target)))
"""


def test_processes_freeze_at_once_and_die(tmp_path: Path):
    """Two processes freeze one directory at once; a third, killed inside, leaves nothing that misleads."""
    root, killed = project(tmp_path / "project"), project(tmp_path / "killed")
    (tmp_path / "home").mkdir()
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(SOURCE),
        "HOME": str(tmp_path / "home"),
        "PYTHONWARNINGS": "error::ResourceWarning",
    }
    start = lambda where, what: subprocess.Popen(  # noqa: E731
        [sys.executable, "-c", WORKER, str(where), what],
        cwd=tmp_path / "home",
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    both, victim = [start(root, "data"), start(root, "data")], start(killed, "kill")
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*/ready-*"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    (root / "go").touch()
    (killed / "go").touch()
    answers = [process.communicate(timeout=60) for process in both]
    victim.communicate(timeout=60)
    assert answers[0] == answers[1]
    assert answers[0][1] == ""
    assert victim.returncode == -9
    version = freeze(root, root / "data")
    assert answers[0][0] == f"{version}\n"
    assert pointer(killed, killed / "data") is None
    assert freeze(killed, killed / "data") == version == pointer(killed, killed / "data")
    assert list((tmp_path / "home").iterdir()) == []

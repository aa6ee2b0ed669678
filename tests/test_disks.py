"""Files that appear whole or not at all, on a file system that is really full."""

from __future__ import annotations

import errno
import hashlib
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from rlback.data.snapshot import freeze, push, restore
from rlback.disks import FullDisk, NoRoom, full_disk, write_whole
from rlback.errors import DataError
from rlback.training.state import load_state, save_state
from tests.conftest import Disk, half_written


def test_what_does_not_fit_leaves_the_old_file_and_says_where_and_how_much(disk: Disk):
    """The system's own error names neither; this one does, also after it crossed to another process."""
    path = disk.place / "page.html"
    write_whole(path, "old")
    disk.fill(16)
    with pytest.raises(NoRoom) as refused:
        write_whole(path, b"x" * 300_000)
    assert path.read_text() == "old"
    assert half_written(disk.place) == []
    error = pickle.loads(pickle.dumps(refused.value))  # noqa: S301
    assert (error.errno, error.filename, error.needed) == (errno.ENOSPC, str(path), 300_000)
    assert full_disk(error, disk.place) == FullDisk(str(path), 300_000)
    disk.empty()
    write_whole(path, "new")
    assert path.read_text() == "new"


def test_any_other_failure_stays_itself_and_leaves_nothing(tmp_path: Path):
    """A missing directory is no full disk; a write that is broken off takes its beginning with it."""
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "none" / "file", "x")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("rlback.disks.flush", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        write_whole(tmp_path / "file", "x")
    assert list(tmp_path.iterdir()) == []


def test_a_training_state_that_does_not_fit_leaves_the_one_before(disk: Disk):
    """Step 2 finds no room: step 1 is loaded, nothing half-written stays, and with room step 2 is saved."""
    weights = {"weights/w": torch.arange(100_000, dtype=torch.float32)}
    save_state(disk.place, 1, weights, {})
    disk.fill(64)
    with pytest.raises(NoRoom, match="slot-1") as refused:
        save_state(disk.place, 2, weights, {})
    assert refused.value.needed == 400_000
    assert half_written(disk.place) == []
    assert load_state(disk.place).step == 1
    disk.empty()
    save_state(disk.place, 2, weights, {})
    assert load_state(disk.place).step == 2


SIZE = 3 << 20


@pytest.fixture
def frozen_at(tmp_path: Path):
    """Freezes 3 MiB of data in a project, whose remote is to lie at a place."""

    def make(root: Path, remote: Path):
        (root / ".rlback").mkdir(parents=True)
        (root / "data").mkdir()
        for number in range(3):
            (root / "data" / f"{number}.bin").write_bytes(bytes([number]) * (SIZE // 3))
        version = freeze(root, root / "data")
        (root / ".dvc" / "config.local").write_text(f'[core]\n    remote = far\n[remote "far"]\n    url = {remote}\n')
        return version

    return make


def objects(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if path.is_file()]


def test_a_push_to_a_full_remote_names_the_place_and_the_bytes(disk: Disk, frozen_at, tmp_path: Path):
    """What the remote holds afterwards is whole; with room the same push ends well, and the version comes back."""
    root, remote = tmp_path / "p", disk.place / "far"
    version = frozen_at(root, remote)
    disk.fill(1500)
    with pytest.raises(DataError, match="the disk is full") as refused:
        push(root, version)
    assert str(remote) in refused.value.message
    assert "up to 3,145," in refused.value.message  # and the listing's bytes
    for path in objects(remote):
        digest = hashlib.md5(path.read_bytes()).hexdigest()
        assert digest == f"{path.parent.name}{path.name.removesuffix('.dir')}"
    disk.empty()
    push(root, version)
    shutil.rmtree(root / ".dvc" / "cache")
    restore(root, version, tmp_path / "out")
    assert (tmp_path / "out" / "2.bin").read_bytes() == b"\x02" * (SIZE // 3)


def test_a_pull_onto_a_full_disk_leaves_no_destination(disk: Disk, frozen_at, tmp_path: Path):
    """Neither the directory nor a part of it; with room the same restore ends well."""
    root = disk.place / "p"
    version = frozen_at(root, tmp_path / "far")
    push(root, version)
    shutil.rmtree(root / ".dvc" / "cache")
    for room in (1500, 4096):  # too little for what is fetched, then for the copy of it
        disk.fill(room)
        with pytest.raises((DataError, NoRoom)) as refused:
            restore(root, version, root / "out")
        assert (full := full_disk(refused.value, root)) is not None
        assert full.place.startswith(str(root))
        assert full.needed == SIZE
        assert [path.name for path in root.iterdir() if "out" in path.name] == []
        assert not list(disk.place.rglob("*.tmp"))
        disk.empty()
    restore(root, version, root / "out")
    assert (root / "out" / "1.bin").read_bytes() == b"\x01" * (SIZE // 3)

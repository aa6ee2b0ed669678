"""The one way into DVC: its cache, read and checked by us, and the few operations that are left to it.

DVC is imported inside functions, opened afresh for every operation (a long-lived `Repo` remembers listings
that have changed) and keeps its state inside the project.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from rlback.data.manifest import Manifest
from rlback.disks import NoRoom, full_disk
from rlback.errors import DataError

CACHE_REMEDY = (
    "bring .dvc/cache back from a backup or a remote, or freeze the same data again where they are good"
)


def cached_object(root: Path, md5: str) -> Path:
    """Where DVC's cache keeps bytes by their MD5: `abcdef…` is the file .dvc/cache/files/md5/ab/cdef…"""
    return root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]


def is_whole(root: Path, md5: str) -> bool:
    """Whether a cached object is there and its bytes are what its name says."""
    path = cached_object(root, md5)
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest() == md5.removesuffix(".dir")


def drop_damaged(root: Path, manifest: Manifest) -> bool:
    """Removes cached objects whose bytes are not what their name says; True when all are there and whole."""
    lacking = [md5 for md5 in {manifest.md5, *(f.md5 for f in manifest.files)} if not is_whole(root, md5)]
    for md5 in lacking:
        cached_object(root, md5).unlink(missing_ok=True)
    return not lacking


def listed(root: Path, md5: str) -> list[tuple[PurePosixPath, str]]:
    """Path and MD5 of every file of a cached directory listing.

    It may come from a remote: it must have the MD5 it is named by, and its paths must stay inside.
    """
    listing = cached_object(root, md5)
    if not is_whole(root, md5):
        raise DataError(f"DVC's listing {listing} is missing or altered", remedy=CACHE_REMEDY)
    files = [(PurePosixPath(file["relpath"]), file["md5"]) for file in json.loads(listing.read_bytes())]
    for path, _ in files:
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"{listing} names a file outside the directory: {path}", remedy=CACHE_REMEDY)
    return files


def cached_files(root: Path, name: str, size: int) -> Iterator[tuple[PurePosixPath, Path]]:
    """Path and cached copy of every file of the directory `name`, `size` bytes, after fetching what the cache lacks."""
    if not is_whole(root, name):
        cached_object(root, name).unlink(missing_ok=True)
        transfer(root, [name], "pull", size)
    files = listed(root, name)
    missing = [md5 for _, md5 in files if not cached_object(root, md5).is_file()]
    if missing:
        transfer(root, missing, "pull", size)
    for path, md5 in files:
        if not cached_object(root, md5).is_file():
            raise DataError(f"{path} of {name} is in neither cache nor remote", remedy=CACHE_REMEDY)
        yield path, cached_object(root, md5)


class _Failures(logging.Handler):
    """Keeps what DVC only logs: it goes on after a file that it could not copy."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.errors.append(record.exc_info[1])


def load_dvc() -> None:
    """Imports DVC, which takes most of the time of its first operation; for who has to wait for something else anyway."""
    os.environ["DVC_NO_ANALYTICS"] = "1"
    os.environ["DO_NOT_TRACK"] = "1"
    import_module("dvc.repo")


@contextmanager
def _repo(root: Path, size: int) -> Iterator[Any]:
    """DVC's repository at `root`, to copy at most `size` bytes with."""
    load_dvc()
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import SCMError
    from dvc.ui import ui

    # Its progress bars, spinners and messages would be written between the lines of our own commands.
    ui.error_console.quiet = True
    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    failures, loggers = _Failures(), [logging.getLogger(name) for name in ("dvc_data", "dvc_objects")]
    held = [logger.handlers for logger in loggers]
    for logger in loggers:
        logger.handlers = [failures]
    for logger in loggers:
        logger.propagate = False
    # Paths in .dvc/config would be taken from the current directory, so the state's place is given here.
    site_cache = str(root / ".dvc" / "site-cache")
    core = {"analytics": False, "check_update": False, "no_scm": True, "site_cache_dir": site_cache}
    try:
        with _without_databases():
            repo = Repo(str(root), config={"core": core, "cache": {"type": ["reflink", "copy"]}})
            try:
                yield repo
            finally:
                repo.close()
        if failures.errors:
            raise failures.errors[0]
    except Exception as error:
        if (full := full_disk(error, root)) is not None:
            # DVC writes beside the object, under a name that nobody knows.
            place = str(Path(full.place).parent) if full.place else str(root / ".dvc" / "cache")
            raise DataError(
                f"the disk is full: DVC could not write to {place}; up to {size:,} bytes are to be copied there ({error})",
                remedy="free that much and do it again; what was copied whole stays, and nothing else does",
            ) from NoRoom(place, size)
        if not isinstance(error, DvcException | SCMError | OSError):
            raise
        cause = error.__cause__ or error
        because = "" if str(cause) in str(error) else f" ({cause})"
        raise DataError(f"DVC refused in {root}: {error}{because}") from error
    finally:
        for logger, handlers in zip(loggers, held, strict=True):
            logger.handlers = handlers


@contextmanager
def _without_databases() -> Iterator[None]:
    """Keeps DVC from databases of file times and of what a remote is thought to hold.

    What they would save us is looking, which is the point here. On a full disk they would never come back
    (diskcache tries again after any error of SQLite, for ever), and they unpickle what they read.
    """
    from dvc_data.hashfile import state
    from dvc_data.hashfile.db import index

    class NoState(state.StateNoop):  # type: ignore[misc]
        def __init__(self, *_: object) -> None:
            pass

    real = state.State, index.ObjectDBIndex
    state.State, index.ObjectDBIndex = NoState, index.ObjectDBIndexNoop
    try:
        yield
    finally:
        state.State, index.ObjectDBIndex = real


@contextmanager
def _clearing_up(repo: Any, names: list[str]) -> Iterator[None]:
    """Removes what DVC began to write of the objects `names` inside the block and did not end, here and in a local remote.

    DVC itself leaves such files, each as large as there was room for; what others wrote before stays.
    """
    began = time.time()
    try:
        yield
    finally:
        for odb in (repo.cache.local, repo.cloud.get_remote_odb()):
            shards = {Path(odb.path) / name[:2] for name in names} if odb.fs.protocol == "local" else ()
            for left in [left for shard in shards for left in shard.glob("*.tmp")]:
                with suppress(FileNotFoundError):  # another process ended it
                    if left.stat().st_mtime >= began:
                        left.unlink()


def drop_unfinished(root: Path) -> None:
    """Removes what DVC left unfinished in the cache; nobody may be writing to it."""
    for left in list((root / ".dvc" / "cache" / "files").rglob("*.tmp")):
        left.unlink(missing_ok=True)


def add_to_dvc(root: Path, target: Path, size: int) -> str:
    """Copies a directory of `size` bytes into DVC's cache; returns its name by MD5 as DVC computed it.

    This is `dvc add` without its last two steps: DVC would copy the files back out of its cache over the
    originals, and write the pointer file in place, where a full disk leaves an empty one.

    Raises:
        DataError: DVC refuses, or could not copy a file.
    """
    with _repo(root, size) as repo:
        pointer = target.with_name(f"{target.name}.dvc")
        with repo.lock:
            stage = repo.stage.create(
                single_stage=True, validate=False, fname=str(pointer), wdir=str(target.parent), outs=[target.name],
                force=True,
            )  # fmt: skip
            stage.add_outs(relink=False)
        return str(stage.outs[0].hash_info.value)


def transfer(root: Path, names: list[str], direction: str, size: int) -> None:
    """Copies cached objects, at most `size` bytes, to ("push") or from ("pull") the default remote. Raises DataError."""
    with _repo(root, size) as repo, _clearing_up(repo, names):
        from dvc_data.hashfile.hash_info import HashInfo

        moved = getattr(repo.cloud, direction)([HashInfo("md5", name) for name in names])
    if moved.failed:
        raise DataError(
            f"DVC could not {direction} {len(moved.failed)} of {len(names)} files",
            remedy="look whether the DVC remote can be reached and still holds them",
        )

"""Data versions: directories of the project frozen under DVC, with SHA-256 sums of our own.

A version is named by DVC's MD5 of the directory and by the root digest of our manifest. DVC stores the bytes
(`.dvc/cache`, shared through a remote) and takes what its cache holds on trust: bytes appended to a cached
file go unnoticed and are checked out as the good version. Hence every version keeps a manifest in
`.rlback/manifests/`, and `verify` and `restore` believe the bytes only.

DVC is imported inside functions, opened afresh for every operation (a long-lived `Repo` remembers listings
that have changed) and keeps its state inside the project.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from rlback.data import manifest as manifests
from rlback.data.manifest import Manifest, exclusive, write_atomically
from rlback.errors import DataError

_CONFIG = """\
# Data versions. State and cache stay in the project, nothing is reported to anybody; git is not needed.
[core]
    analytics = false
    check_update = false
    no_scm = true
"""

_IGNORE = """\
# Places where DVC need not look for pointer files.
/.git
/.venv
/.prefect
/.rlback/work
/mlruns
/reports
"""


@dataclass(frozen=True)
class DataVersion:
    """One frozen state of a directory.

    `md5` is DVC's name (ends in `.dir`), `sha256` the root digest of our manifest over the sorted
    (path, size, SHA-256) of all files, `size` their bytes. `sha256` is empty only where a pointer file was
    written by DVC alone.
    """

    md5: str
    sha256: str
    files: int
    size: int


def ensure_repo(root: Path) -> None:
    """Gives a project its `.dvc/config` and `.dvcignore`; those it has are left as they are."""
    (root / ".dvc").mkdir(exist_ok=True)
    for path, text in ((root / ".dvc" / "config", _CONFIG), (root / ".dvcignore", _IGNORE)):
        if not path.exists():
            write_atomically(path, text.encode())


def freeze(root: Path, target: Path) -> DataVersion:
    """Puts the present state of a directory under DVC and notes its SHA-256 sums.

    Writes the pointer file beside the directory (`data.dvc` for `data/`). The same bytes give the same
    version, wherever they lie; freezing what is frozen already changes nothing. A damaged copy in DVC's
    cache is replaced by the good bytes of the directory. Safe when several processes do it at once.

    Raises:
        DataError: the directory is outside the project, empty, holds a symlink, changes meanwhile, or DVC
            refuses it.
    """
    root, target = _inside(root, target)
    with exclusive(_lock(root)):
        ensure_repo(root)
        manifest = manifests.scan(target)
        version = DataVersion(manifest.md5, manifest.sha256, len(manifest.files), manifest.size)
        cached = _drop_damaged(root, manifest)
        if not (cached and pointer(root, target) == version):
            added = _add(root, target)
            if added != version.md5:
                raise DataError(
                    f"{target} is {version.md5} by its bytes, but DVC froze {added}: it changed meanwhile, "
                    "or .dvcignore leaves out some of its files",
                    remedy="let nothing write there, look into .dvcignore, then freeze it again",
                )
            if not _drop_damaged(root, manifest):
                raise DataError(
                    f"DVC did not keep every file of {target} in .dvc/cache", remedy=_CACHE_REMEDY
                )
        _keep(root, manifest)
        _note_digest(_pointer_path(target), version)
    return version


def verify(root: Path, target: Path, version: DataVersion) -> None:
    """Reads every file of a directory and compares it with a version.

    Raises:
        DataError: names the file that is missing, altered or does not belong there.
    """
    root, target = _inside(root, target)
    _check(root, manifests.scan(target), version, str(target.relative_to(root)), _FILES_REMEDY)


def restore(root: Path, version: DataVersion, destination: Path) -> None:
    """Copies a version out of DVC's cache into a fresh directory, and verifies every byte.

    What the cache lacks is fetched from the default remote. The destination appears only when all is well.

    Raises:
        DataError: the destination exists, the version is nowhere to be had, or its bytes are not those that
            were frozen (names the file).
    """
    root = root.resolve()
    if destination.exists() or destination.is_symlink():
        raise DataError(
            f"{destination} exists already", remedy="restore into a directory that does not exist yet"
        )
    destination.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        for path, source in _cached_files(root, version):
            copy = part / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy, follow_symlinks=False)
        what = f"DVC's cached copy of {version.md5}"
        _check(root, manifests.scan(part), version, what, _CACHE_REMEDY)
        part.chmod(0o755)
        part.rename(destination)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def push(root: Path, version: DataVersion) -> None:
    """Copies a version from DVC's cache to the default remote (`dvc remote add -d NAME URL`).

    Raises:
        DataError: there is no remote, it cannot be reached, or what the cache holds is damaged.
    """
    root = root.resolve()
    names = [version.md5, *(md5 for _, md5 in _listed(root, version.md5))]
    for name in names:
        if not _whole(root, name):
            raise DataError(
                f"DVC's cached copy {_object(root, name)} is missing or altered", remedy=_CACHE_REMEDY
            )
    _transfer(root, names, "push")


def pointer(root: Path, target: Path) -> DataVersion | None:
    """The version that the pointer file beside a directory names, without importing DVC; None without one.

    Raises:
        DataError: the pointer file is damaged.
    """
    path = _pointer_path(_inside(root, target)[1])
    if not path.exists():
        return None
    try:
        text = yaml.safe_load(path.read_text())
        out = text["outs"][0]
        noted = (text.get("meta") or {}).get("rlback") or {}
        # DVC keeps `meta` when it writes a new MD5, so the digest counts only for the MD5 it was noted with.
        sha256 = noted["sha256"] if noted.get("md5") == out["md5"] else ""
        return DataVersion(str(out["md5"]), str(sha256), int(out["nfiles"]), int(out["size"]))
    except (yaml.YAMLError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path} is not a pointer to a directory: {error!r}", remedy="restore it, or freeze again"
        ) from None


def _check(root: Path, actual: Manifest, version: DataVersion, what: str, remedy: str) -> None:
    if actual.sha256 == version.sha256:
        return
    noted = _manifest_path(root, version)
    if noted.exists():
        expected = manifests.load(noted)
        if expected.sha256 == version.sha256:
            manifests.compare(expected, actual, what, remedy)
    raise DataError(
        f"{what} is not the version {version.md5}: its root digest is {actual.sha256[:12]}…, not "
        f"{version.sha256[:12]}… (no manifest of it in {noted.parent}, so the file cannot be named)",
        remedy=remedy,
    )


_FILES_REMEDY = "restore the version into a fresh directory and compare"
_CACHE_REMEDY = (
    "bring .dvc/cache back from a backup or a remote, or freeze the same data again where they are good"
)


def _keep(root: Path, manifest: Manifest) -> None:
    """Stores the manifest; two different contents under one MD5 would mean that MD5 was broken on purpose."""
    path = root / ".rlback" / "manifests" / f"{manifest.md5}.json"
    if not path.exists():
        manifests.save(manifest, path)
    elif manifests.load(path) != manifest:
        raise DataError(
            f"{path} describes other bytes under the same MD5",
            remedy="one of the two is forged: compare the files before you trust either",
        )


def _note_digest(path: Path, version: DataVersion) -> None:
    text: dict[str, Any] = yaml.safe_load(path.read_text())
    noted = {"md5": version.md5, "sha256": version.sha256}
    meta = text.get("meta") or {}
    if meta.get("rlback") != noted:
        text["meta"] = {**meta, "rlback": noted}
        write_atomically(path, yaml.safe_dump(text, sort_keys=False).encode())


def _inside(root: Path, target: Path) -> tuple[Path, Path]:
    named, target = Path(os.path.abspath(root)), Path(os.path.abspath(root / target))
    root = root.resolve()
    if target.is_relative_to(named):
        target = root / target.relative_to(named)
    if target == root or not target.is_relative_to(root) or target.resolve() != target:
        raise DataError(
            f"{target} is not a directory inside the project {root}",
            remedy="name a directory inside the project, without symbolic links on the way",
        )
    return root, target


def _pointer_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.dvc")


def _manifest_path(root: Path, version: DataVersion) -> Path:
    return root / ".rlback" / "manifests" / f"{version.md5}.json"


def _lock(root: Path) -> Path:
    return root / ".rlback" / "locks" / "dvc.lock"


# DVC's cache: the object with MD5 `abcdef…` is the file .dvc/cache/files/md5/ab/cdef…


def _object(root: Path, md5: str) -> Path:
    return root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]


def _whole(root: Path, md5: str) -> bool:
    """Whether a cached object is there and its bytes are what its name says."""
    path = _object(root, md5)
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest() == md5.removesuffix(".dir")


def _drop_damaged(root: Path, manifest: Manifest) -> bool:
    """Removes cached objects whose bytes are not what their name says; True when all are there and whole."""
    lacking = [md5 for md5 in {manifest.md5, *(f.md5 for f in manifest.files)} if not _whole(root, md5)]
    for md5 in lacking:
        _object(root, md5).unlink(missing_ok=True)
    return not lacking


def _listed(root: Path, md5: str) -> list[tuple[PurePosixPath, str]]:
    """Path and MD5 of every file of a cached directory listing.

    It may come from a remote: it must have the MD5 it is named by, and its paths must stay inside.
    """
    listing = _object(root, md5)
    if not _whole(root, md5):
        raise DataError(f"DVC's listing {listing} is missing or altered", remedy=_CACHE_REMEDY)
    files = [(PurePosixPath(file["relpath"]), file["md5"]) for file in json.loads(listing.read_bytes())]
    for path, _ in files:
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"{listing} names a file outside the directory: {path}", remedy=_CACHE_REMEDY)
    return files


def _cached_files(root: Path, version: DataVersion) -> Iterator[tuple[PurePosixPath, Path]]:
    """Path and cached copy of every file of a version, after fetching what the cache lacks."""
    if not _whole(root, version.md5):
        _object(root, version.md5).unlink(missing_ok=True)
        _transfer(root, [version.md5], "pull")
    files = _listed(root, version.md5)
    missing = [md5 for _, md5 in files if not _object(root, md5).is_file()]
    if missing:
        _transfer(root, missing, "pull")
    for path, md5 in files:
        if not _object(root, md5).is_file():
            raise DataError(f"{path} of {version.md5} is in neither cache nor remote", remedy=_CACHE_REMEDY)
        yield path, _object(root, md5)


@contextmanager
def _repo(root: Path) -> Iterator[Any]:
    os.environ["DVC_NO_ANALYTICS"] = "1"
    os.environ["DO_NOT_TRACK"] = "1"
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import SCMError
    from dvc.ui import ui

    # Its progress bars and spinners would be written between the lines of our own commands.
    ui.error_console.quiet = True
    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    # Paths in .dvc/config would be taken from the current directory, so the state's place is given here.
    site_cache = str(root / ".dvc" / "site-cache")
    core = {"analytics": False, "check_update": False, "no_scm": True, "site_cache_dir": site_cache}
    try:
        repo = Repo(str(root), config={"core": core, "cache": {"type": ["reflink", "copy"]}})
        try:
            yield repo
        finally:
            repo.close()
    except (DvcException, SCMError, OSError) as error:
        cause = error.__cause__ or error
        because = "" if str(cause) in str(error) else f" ({cause})"
        raise DataError(f"DVC refused in {root}: {error}{because}") from error


def _add(root: Path, target: Path) -> str:
    with _repo(root) as repo:
        return str(repo.add(str(target))[0].outs[0].hash_info.value)


def _transfer(root: Path, names: list[str], direction: str) -> None:
    with _repo(root) as repo:
        from dvc_data.hashfile.hash_info import HashInfo

        moved = getattr(repo.cloud, direction)([HashInfo("md5", name) for name in names])
    if moved.failed:
        raise DataError(
            f"DVC could not {direction} {len(moved.failed)} of {len(names)} files",
            remedy="look whether the DVC remote can be reached and still holds them",
        )

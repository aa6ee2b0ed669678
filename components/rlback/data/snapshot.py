"""Data versions: directories of the project frozen under DVC, with SHA-256 sums of our own.

A version is named by DVC's MD5 of the directory and by the root digest of our manifest. DVC stores the bytes
(`.dvc/cache`, shared through a remote) and takes what its cache holds on trust: bytes appended to a cached
file go unnoticed and are checked out as the good version. Hence every version keeps a manifest in
`.rlback/manifests/`, and `verify` and `restore` believe the bytes only.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlback.data import manifest as manifests
from rlback.data.dvc_access import (
    CACHE_REMEDY,
    add_to_dvc,
    cached_files,
    cached_object,
    drop_damaged,
    drop_unfinished,
    is_whole,
    listed,
    transfer,
)
from rlback.data.manifest import Manifest, exclusive, write_atomically
from rlback.disks import naming
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
        if not drop_damaged(root, manifest):
            drop_unfinished(root)
            try:
                added = add_to_dvc(root, target, manifest.size)
            finally:
                drop_unfinished(root)
            if added != version.md5:
                raise DataError(
                    f"{target} is {version.md5} by its bytes, but DVC froze {added}: it changed meanwhile, "
                    "or .dvcignore leaves out some of its files",
                    remedy="let nothing write there, look into .dvcignore, then freeze it again",
                )
            if not drop_damaged(root, manifest):
                raise DataError(
                    f"DVC did not keep every file of {target} in .dvc/cache", remedy=CACHE_REMEDY
                )
        _keep(root, manifest)
        _point(_pointer_path(target), version)
    return version


def verify(root: Path, target: Path, version: DataVersion) -> None:
    """Reads every file of a directory, block by block, and compares it with a version.

    A version whose pointer was written by DVC alone has no SHA-256 of ours and is compared by MD5.

    Raises:
        DataError: names the file that is missing, altered or does not belong there.
    """
    root, target = _inside(root, target)
    _check(root, manifests.scan(target), version, str(target.relative_to(root)), _FILES_REMEDY)


def verify_kept(root: Path, version: DataVersion) -> None:
    """Compares what DVC's cache holds of a version with our manifest, block by block; nothing is fetched.

    Objects that the cache lacks may lie in a remote and are passed over.

    Raises:
        DataError: names the file whose cached copy is altered, or the manifest that is not this version's.
    """
    root = root.resolve()
    noted = _manifest_path(root, version)
    if not noted.exists():
        raise DataError(f"{noted}, the manifest of {version.md5}, is missing", remedy=_FILES_REMEDY)
    expected = manifests.load(noted)
    if expected.sha256 != version.sha256:
        raise DataError(f"{noted} describes other bytes than those that were frozen", remedy=_FILES_REMEDY)
    for file in expected.files:
        copy = cached_object(root, file.md5)
        if copy.is_file() and manifests.sha256_of(copy) != file.sha256:
            raise DataError(f"DVC's cached copy of {file.path} ({copy}) is altered", remedy=CACHE_REMEDY)


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
        for path, source in cached_files(root, version.md5, version.size):
            copy = part / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            with naming(destination, version.size):
                shutil.copyfile(source, copy, follow_symlinks=False)
        what = f"DVC's cached copy of {version.md5}"
        _check(root, manifests.scan(part), version, what, CACHE_REMEDY)
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
    names = [version.md5, *(md5 for _, md5 in listed(root, version.md5))]
    for name in names:
        if not is_whole(root, name):
            raise DataError(
                f"DVC's cached copy {cached_object(root, name)} is missing or altered", remedy=CACHE_REMEDY
            )
    transfer(root, names, "push", sum(cached_object(root, name).stat().st_size for name in names))


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
            f"{path} is not a pointer to a directory: {error!r}",
            remedy="restore it from git or a backup, or remove it: the next freeze writes it anew",
        ) from None


def _check(root: Path, actual: Manifest, version: DataVersion, what: str, remedy: str) -> None:
    if (actual.sha256 == version.sha256) if version.sha256 else (actual.md5 == version.md5):
        return
    noted = _manifest_path(root, version)
    if noted.exists():
        expected = manifests.load(noted)
        if version.sha256 in ("", expected.sha256):
            manifests.compare(expected, actual, what, remedy)
    found, wanted = (actual.sha256, version.sha256) if version.sha256 else (actual.md5, version.md5)
    raise DataError(
        f"{what} is not the version {version.md5}: its root digest is {found[:12]}…, not {wanted[:12]}… "
        f"(no manifest of it in {noted.parent}, so the file cannot be named)",
        remedy=remedy,
    )


_FILES_REMEDY = "restore the version into a fresh directory and compare"


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


def _point(path: Path, version: DataVersion) -> None:
    """Writes the pointer file as DVC does, with our digest beside its own; other notes in it are kept."""
    try:
        held = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        held = None
    text: dict[str, Any] = dict(held) if isinstance(held, dict) else {}
    out = {"md5": version.md5, "size": version.size, "nfiles": version.files, "hash": "md5"}
    noted = {"md5": version.md5, "sha256": version.sha256}
    text["outs"] = [{**out, "path": path.name.removesuffix(".dvc")}]
    text["meta"] = {**(text.get("meta") or {}), "rlback": noted}
    if text != held:
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

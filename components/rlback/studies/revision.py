"""Which code a study's numbers come from: a digest of the source files that determine them, and the commit beside it.

A commit alone would do harm: one that changes a table, a picture, a command or a page would make everything computed
before look stale. So a part is named by the files that its unit imports, and by nothing else of the repository.
"""

from __future__ import annotations

import ast
import hashlib
import subprocess
from functools import cache
from pathlib import Path

from rlback.studies.gates import MODULES
from rlback.studies.protocol import LEARNERS

PACKAGE = Path(__file__).resolve().parents[1]

#: What every unit is computed with, whatever its world.
_ROOTS = ("rlback.studies.machine", "rlback.studies.recorder")
#: Followed no further. The errors' texts change no number, and what arms.py makes of a file is in the digest of the
#: configuration, value by value.
_NOT_COMPUTING = ("rlback.errors", "rlback.studies.arms")


@cache
def code_revision(world: str, package: Path = PACKAGE) -> str:
    """Digest of the sources that determine what a unit of this world comes to, 12 hex digits."""
    return _digest(sources(world, package), package)


@cache
def gate_revision(gate: str, package: Path = PACKAGE) -> str | None:
    """The same of a gate that has a module of its own; None for the gates that every unit's sources hold. It belongs to
    the digest of the arms that name such a gate, so that the others' parts stay valid when it changes."""
    return _digest(_closure([MODULES[gate]], package), package) if gate in MODULES else None


def _digest(paths: list[Path], package: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def sources(world: str, package: Path = PACKAGE) -> list[Path]:
    """Files under the package that the machine and the world's learner import, directly or through others, sorted."""
    return _closure([*_ROOTS, LEARNERS[world].partition(":")[0]], package)


def _closure(todo: list[str], package: Path) -> list[Path]:
    found: dict[str, Path] = {}
    while todo:
        name = todo.pop()
        path = _file(name, package)
        if path is None or name in found or name in _NOT_COMPUTING:
            continue
        found[name] = path
        todo += _imported(path, package)
    return sorted(found.values())


@cache
def commit(world: str) -> str:
    """For the reader: the repository's commit, with + where a source of this world differs from it; empty without git."""
    try:
        where = ["git", "-C", str(PACKAGE)]
        head = subprocess.run([*where, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        paths = [str(path) for path in sources(world)]
        changed = subprocess.run([*where, "status", "--porcelain", "--", *paths], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + "+" * bool(changed.stdout.strip())


def _imported(path: Path, package: Path) -> list[str]:
    """Modules of the package that a file imports anywhere in it, functions' imports included. A package's __init__ is
    among them only where something is taken from it that is no module of its own.
    """
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names += [name if _file(name, package) else node.module for name in inside]
    return [name for name in names if name.split(".")[0] == "rlback"]


def _file(name: str, package: Path) -> Path | None:
    """The file of a module or of a package; None for a name inside one."""
    place = package.joinpath(*name.split(".")[1:])
    return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()), None)

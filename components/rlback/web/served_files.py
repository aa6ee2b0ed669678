"""Files on the server that somebody at a browser may name: regular ones in a few directories, links followed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlback.errors import ConfigError

LISTED = 200
LOOKED_AT = 5_000
PATH_CHARS = 1_000
#: Endings of what campaigns read (data/source.py).
READ = (".jsonl", ".json", ".csv", ".parquet", ".txt", ".gz", ".xz")


def served_file(root: Path, roots: Sequence[Path], key: str, named: str) -> Path:
    """The file that a person named, from the project's directory `root` or absolute, resolved.

    What lies outside `roots` is refused in the same words whether or not it is there.

    Raises:
        ConfigError: it lies elsewhere, or is no file.
    """
    where = ", ".join(_shown(root, directory) for directory in roots)
    try:
        path = (root / named).resolve()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, a link in a circle
        raise ConfigError(f"{key}: {named[:80]!r} is no path", remedy=f"name a file in {where}") from None
    if not any(path.is_relative_to(directory) for directory in roots):
        raise ConfigError(
            f"{key}: {named[:200]} is not in a directory that the browser may name",
            remedy=f"those are {where}; `inputs` in console.yaml adds others, and `rlback run` takes any",
        )
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "is not there" if not path.exists() else "is no regular file"
        raise ConfigError(f"{key}: {path} {what}", remedy=f"name a file in {where}")
    return path


def listed_files(root: Path, roots: Sequence[Path]) -> list[str]:
    """Names to choose from, as `served_file` takes them; at most `LISTED`, after looking at `LOOKED_AT` entries."""
    found: list[str] = []
    for seen, path in enumerate(_walk(roots)):
        if seen == LOOKED_AT or len(found) == LISTED:
            break
        if path.name.endswith(READ):
            found.append(_shown(root, path))
    return sorted(found)


def _walk(roots: Sequence[Path]) -> Iterator[Path]:
    for directory in roots:
        for place, folders, files in os.walk(directory):
            folders.sort()
            yield from (Path(place) / name for name in sorted(files))


def _shown(root: Path, path: Path) -> str:
    resolved = root.resolve()
    return str(path.relative_to(resolved)) if path.is_relative_to(resolved) else str(path)

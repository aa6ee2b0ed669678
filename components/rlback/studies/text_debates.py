"""People's preferences by debate, parted into what gold is fitted on, what people label on and what policies see."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from rlback.data.preferences import opened, read_pairs
from rlback.data.split import split_by_group
from rlback.data.text import read_text
from rlback.errors import ConfigError, DataError
from rlback.models.manifest import hash_file
from rlback.records import PreferencePair, digest_of, seed_of
from rlback.studies.text_settings import ArgumentsSettings
from rlback.studies.text_world import Split

#: Of the plain text, what the tokenizer is trained on.
TOKENIZER_BYTES = 2_000_000


@dataclass(frozen=True)
class Debates:
    """held: all pairs of the held-out debates; rest: those of the others. prompts: of each split, sorted.

    sha256: of the file of pairs.
    """

    held: tuple[PreferencePair, ...]
    rest: tuple[PreferencePair, ...]
    prompts: dict[Split, tuple[str, ...]]
    sha256: str

    def drawn(self, seed: int, n: int, split: Split) -> list[str]:
        """`n` prompts of a split: whole shuffles one after another."""
        pool, rng = self.prompts[split], random.Random(seed_of("prompts", split, seed))
        return [p for _ in range(-(-n // len(pool))) for p in rng.sample(pool, len(pool))][:n]


def read_debates(settings: ArgumentsSettings, place: str) -> Debates:
    """The pairs of `settings.pairs`, parted.

    Raises:
        ConfigError: no file is named, there is none, or the debates in it are too few for what is asked.
        DataError: a row of the file is wrong, see read_pairs.
    """
    path = _file(settings.pairs, "pairs", place, "give it: --pairs PATH, or pairs in world_settings")
    pairs, sha256 = _read(path, path.stat().st_mtime_ns, settings.group_column, settings.group_until)
    groups = {pair.group for pair in pairs}
    needed = settings.held_out + settings.labelled + 1
    if len(groups) < needed:
        raise ConfigError(
            f"{place}: {path} has {len(groups)} debates; held_out {settings.held_out} and labelled {settings.labelled} "
            f"and one to optimise on are {needed}",
            remedy="lower held_out or labelled, or check group_column and group_until",
        )
    if settings.gold.folds > settings.held_out:
        raise ConfigError(
            f"{place}: gold.folds {settings.gold.folds} are more than the {settings.held_out} debates held out",
            remedy="lower gold.folds or raise held_out",
        )
    outer = split_by_group(pairs, settings.held_out, settings.split_seed)
    inner = split_by_group(outer.train, settings.labelled, settings.split_seed)
    seen: set[str] = set()
    prompts: dict[Split, tuple[str, ...]] = {}
    parts: tuple[tuple[Split, list[PreferencePair]], ...] = (
        ("train", inner.train), ("gate", inner.held), ("eval", outer.held)
    )  # fmt: skip
    for split, part in parts:
        prompts[split] = tuple(sorted({pair.prompt for pair in part} - seen))
        seen |= set(prompts[split])
        if not prompts[split]:
            raise ConfigError(f"{place}: {path}: the debates of the split {split} have no prompt of their own")
    return Debates(tuple(outer.held), tuple(outer.train), prompts, sha256)


def plain_text(settings: ArgumentsSettings, limit: int) -> list[str]:
    """Paragraphs of the text, up to `limit` bytes; none where there is no text."""
    return [] if settings.text is None else list(read_text(Path(settings.text), max_bytes=limit))


def file_digest(given: str | None, name: str, place: str) -> str | None:
    """SHA-256 of a file's bytes; None for no file. ConfigError where there is none of that name."""
    return None if given is None else hash_file(_file(given, name, place, "check the path")).sha256


def directory_digest(given: str | None, name: str, place: str) -> str | None:
    """The same for a directory with a model: of its files that are read."""
    if given is None:
        return None
    root = Path(given)
    files = sorted(p for p in root.glob("*") if p.suffix in (".json", ".safetensors")) if root.is_dir() else []
    if not any(p.name == "config.json" for p in files):
        raise ConfigError(f"{place}: {name}: there is no directory {root} with a config.json", remedy="check the path")
    return digest_of([[p.name, hash_file(p).sha256] for p in files])


def _file(given: str | None, name: str, place: str, remedy: str) -> Path:
    if given is None:
        raise ConfigError(f"{place}: {name} is missing", remedy=remedy)
    if not Path(given).is_file():
        raise ConfigError(f"{place}: {name}: there is no file {given}", remedy="check the path")
    return Path(given)


@lru_cache(maxsize=2)
def _read(path: Path, changed: int, column: str, until: str | None) -> tuple[tuple[PreferencePair, ...], str]:
    # A process checks a study once for each of its settings; `changed` is there so that a new file is read anew.
    del changed
    try:
        read = read_pairs(path, group_column=column, group_until=until, prompt_mismatch="drop")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8: {error}") from None
    return tuple(replace(pair, prompt=opened(pair.prompt)) for pair in read.pairs), read.sha256

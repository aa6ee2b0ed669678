"""Where a campaign's prompts, base text and first preferences come from.

Two kinds behind one protocol: a controlled world (gold reward known, annotators simulated) and files of real
people's preferences. Neither trains anything.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rlback.config import CampaignConfig
from rlback.data import snapshot
from rlback.data.preferences import opened, read_pairs
from rlback.data.split import length_baseline, split_by_group
from rlback.data.text import read_text
from rlback.data.votes import annotator_agreement, apply_votes, read_votes
from rlback.disks import write_whole
from rlback.errors import DataError
from rlback.project import Project
from rlback.records import PreferencePair, seed_of
from rlback.worlds import WORLDS, load_world

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from rlback.training.dpo import OwnTokens
    from rlback.training.rollout import Sampler
    from rlback.training.supervised import TrainingText

Gold = Callable[[str, str, bool], float]
WORLD_DATA_SEED = 0
#: How much of a plain text a vocabulary is made from.
VOCABULARY_BYTES = 2_000_000


class Source(Protocol):
    """What the stages ask of a source. `gold` is None where nobody knows it; `hype` is what a biased annotator likes."""

    gold: Gold | None
    hype: Gold | None

    def make_data(self) -> dict[str, Any]:
        """Makes or checks the source data, freezes it, and says what it is."""

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer of a base policy trained from nothing."""

    def base_text(self, tokenizer: PreTrainedTokenizerFast) -> TrainingText:
        """What such a base policy is trained on."""

    def prompts(self, purpose: str, n: int, seed: int) -> list[str]:
        """`n` prompts for `train`, `gate` or `eval`; those of one purpose are not used for another."""

    def prompts_too_long(self) -> int:
        """How many prompts are never sampled on, because they have more than `source.max_prompt_tokens`."""

    def given_pairs(self) -> tuple[list[PreferencePair], list[PreferencePair]]:
        """Preferences that were there before the campaign: (for training, held out)."""

    def describe(self, prompt: str, completion: str, finished: bool) -> str:
        """A short remark on a completion, or an empty text."""

    def sampler(self, tokenizer: PreTrainedTokenizerFast) -> Sampler:
        """How a policy's completions come about: alone, or in turns with what answers it."""

    def own_tokens(self, tokenizer: PreTrainedTokenizerFast) -> OwnTokens | None:
        """Which tokens of prompts' completions the policy chose; None where it chooses all."""


@dataclass(frozen=True)
class WorldSource:
    """A controlled world; its corpus and prompts lie in data/<world> under `data.dvc`."""

    project: Project
    config: CampaignConfig

    @property
    def _world(self) -> Any:
        assert self.config.source.world is not None
        return load_world(self.config.source.world)

    @property
    def gold(self) -> Gold | None:
        return self._world.gold

    @property
    def hype(self) -> Gold | None:
        return self._world.hype

    def make_data(self) -> dict[str, Any]:
        root = self.project.root
        committed = snapshot.pointer(root, self.project.data)
        with self.project.lock("data", "making the source data", wait=True):
            self._write_worlds()
            version = snapshot.freeze(root, self.project.data)
        return {
            "data_version": version.md5,
            "sha256": version.sha256,
            "files": version.files,
            "matches_pointer": committed is None or committed.md5 == version.md5,
            "had_pointer": committed is not None,
        }

    def _write_worlds(self) -> None:
        """Writes the data aside and moves them file by file: a full disk or a kill harms nothing that is there."""
        part = self.project.state / "work" / ".data"
        for name in WORLDS:
            load_world(name).write_data(part / name, WORLD_DATA_SEED)
        for file in sorted(path for path in part.rglob("*") if path.is_file()):
            target = self.project.data / file.relative_to(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
        shutil.rmtree(part)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        from rlback.models.tokenizers import word_level

        return word_level(self._world.vocabulary)

    def base_text(self, tokenizer: PreTrainedTokenizerFast) -> TrainingText:
        from rlback.models.tokenizers import encode_completion, encode_prompt

        examples = self._world.read_corpus(self.project.data / self._world.name)
        prompts = {text: encode_prompt(tokenizer, text) for text in {x.prompt for x in examples}}  # few, and often used
        return [(prompts[x.prompt], encode_completion(tokenizer, x.completion)) for x in examples]

    def prompts(self, purpose: str, n: int, seed: int) -> list[str]:
        return self._world.prompts(seed, n, purpose)

    def prompts_too_long(self) -> int:
        return 0

    def given_pairs(self) -> tuple[list[PreferencePair], list[PreferencePair]]:
        return [], []

    def describe(self, prompt: str, completion: str, finished: bool) -> str:
        return self._world.describe(prompt, completion, finished)

    def sampler(self, tokenizer: PreTrainedTokenizerFast) -> Sampler:
        from rlback.environments.episodes import sample_episodes
        from rlback.models.sampler import sample

        environment = self._world.environment(tokenizer)
        return sample if environment is None else partial(sample_episodes, environment=environment)

    def own_tokens(self, tokenizer: PreTrainedTokenizerFast) -> OwnTokens | None:
        from rlback.environments.episodes import own_tokens

        environment = self._world.environment(tokenizer)
        return None if environment is None else partial(own_tokens, environment)


@dataclass(frozen=True)
class Parted:
    """Given preferences, parted into those to train on and those held out; `counts` says how many there were of what."""

    format: str
    train: list[PreferencePair]
    held: list[PreferencePair]
    counts: dict[str, Any]
    agreement: dict[str, Any] | None


def part_pairs(config: CampaignConfig, files: Mapping[str, Path]) -> Parted:
    """Reads `files["pairs"]`, puts the votes in `files["votes"]` on the pairs where there are any, and holds out groups.

    A dry run and the campaign itself read with this one function, or they would part groups differently. Raises
    DataError naming file and line, or why the groups cannot be parted.
    """
    from rlback.models.conversations import plain_text

    settings = config.source
    read = read_pairs(
        files["pairs"], group_column=settings.group_column, group_until=settings.group_until, prompt_mismatch="drop",
        skip_invalid=settings.skip_invalid, render=plain_text,
    )  # fmt: skip
    pairs, agreement = read.pairs, None
    if "votes" in files:
        votes = read_votes(files["votes"])
        pairs = apply_votes(pairs, votes)
        agreement = asdict(annotator_agreement(votes.values()))
    if settings.held_out:
        split = split_by_group(pairs, settings.held_out, seed_of(config.seed, "split"))
        train, held, held_groups, leaked = split.train, split.held, split.held_groups, split.leaked_held
    else:
        train, held, held_groups, leaked = pairs, [], (), 0
    dropped = {
        "ties": read.ties, "both_bad": read.both_bad, "prompts_differ": read.prompts_differ, "invalid": read.invalid
    }  # fmt: skip
    counts = {
        "pairs": len(pairs), "train": len(train), "held": len(held), "groups": len({pair.group for pair in pairs}),
        "held_groups": list(held_groups), "leaked": leaked, "dropped": dropped,
    }  # fmt: skip
    return Parted(read.format, train, held, counts, agreement)


@dataclass(frozen=True)
class PairsSource:
    """Files of people's preferences; a copy of what was read is frozen under .rlback/snapshots.

    `prompt_tokens` counts a prompt's tokens for the base policy. A prompt that is longer than the policy reads
    is a prompt for the reward model only, which reads its end: whoever labels must see what the policy saw.
    """

    project: Project
    config: CampaignConfig
    campaign: str
    inputs: dict[str, Any]
    prompt_tokens: Callable[[str], int]
    gold: Gold | None = None
    hype: Gold | None = None

    @property
    def _frozen(self) -> Path:
        return self.project.state / "snapshots" / f"{self.campaign}-source"

    def require_as_frozen(self, made: Mapping[str, Any]) -> None:
        """Compares every byte of the frozen copy with what `make_data` said of it. Raises DataError naming the file."""
        version = snapshot.DataVersion(made["data_version"], made["sha256"], made["files"], 0)
        snapshot.verify(self.project.root, self._frozen, version)

    def make_data(self) -> dict[str, Any]:
        given = [name for name in ("pairs", "votes") if name in self.inputs]
        for name in given:
            self._require_unchanged(name)
        files = {name: Path(said["path"]) for name, said in self.inputs.items()}
        parted = part_pairs(self.config, files)
        for name in given:  # again: what was read must be what is on record
            self._require_unchanged(name)
        self._frozen.mkdir(parents=True, exist_ok=True)
        for name, part in (("train", parted.train), ("held", parted.held)):
            ready = [replace(pair, prompt=opened(pair.prompt)) for pair in part]
            lines = [json.dumps(asdict(pair), sort_keys=True) for pair in ready]
            write_whole(self._frozen / f"pairs-{name}.jsonl", "".join(line + "\n" for line in lines))
        version = snapshot.freeze(self.project.root, self._frozen)
        return {
            "data_version": version.md5,
            "sha256": version.sha256,
            "files": version.files,
            **parted.counts,
            "length_baseline": length_baseline([*parted.train, *parted.held]),
            "length_baseline_held": length_baseline(parted.held) if parted.held else None,
            "annotator_agreement": parted.agreement,
        }

    def tokenizer(self) -> PreTrainedTokenizerFast:
        from rlback.models.tokenizers import train_byte_bpe

        def texts() -> Any:
            yield from self._documents()
            yield from self._paragraphs(VOCABULARY_BYTES)

        return train_byte_bpe(texts(), self.config.base.vocabulary)

    def base_text(self, tokenizer: PreTrainedTokenizerFast) -> TrainingText:
        from rlback.training.given_pairs import base_streams

        assert self.config.base.training is not None
        share, plain = self.config.base.text_share, None
        if share > 0 and "text" in self.inputs:
            plain = "\n".join(self._paragraphs(self.config.base.text_bytes))
        return base_streams(tokenizer, self._texts(), plain, self.config.base.training.window, share)

    def prompts(self, purpose: str, n: int, seed: int) -> list[str]:
        known, fresh = ([p for p in part if self._fits(p)] for part in self._all_prompts())
        pool = known
        if purpose == "train" or not fresh:
            # Without held-out groups there are no prompts the reward model has not seen; the first fifth is
            # then kept for the gate, so that at least the policy never trained on them.
            cut = max(1, len(pool) // 5) if not fresh and len(pool) > 1 else 0
            pool = pool[cut:] if purpose == "train" else pool[: cut or 1]
        else:
            pool = fresh
        if not pool:
            raise DataError(
                f"no prompt of {self.inputs['pairs']['path']} has at most {self.config.source.max_prompt_tokens} tokens",
                remedy="raise source.max_prompt_tokens (and base.shape.max_positions with it)",
            )
        rng = random.Random(seed_of("prompts", purpose, seed))
        # Whole shuffles one after another: a larger n continues the same list.
        return [p for _ in range(-(-n // len(pool))) for p in rng.sample(pool, len(pool))][:n]

    def prompts_too_long(self) -> int:
        return sum(not self._fits(prompt) for part in self._all_prompts() for prompt in part)

    def _all_prompts(self) -> tuple[list[str], list[str]]:
        """(those of the training pairs, those of held-out pairs alone), each sorted."""
        train, held = self.given_pairs()
        known = {pair.prompt for pair in train}
        return sorted(known), sorted({pair.prompt for pair in held} - known)

    def _fits(self, prompt: str) -> bool:
        return self.prompt_tokens(prompt) <= self.config.source.max_prompt_tokens

    def given_pairs(self) -> tuple[list[PreferencePair], list[PreferencePair]]:
        return self._read("train"), self._read("held")

    def describe(self, prompt: str, completion: str, finished: bool) -> str:
        return "" if finished else "cut before it ended"

    def sampler(self, tokenizer: PreTrainedTokenizerFast) -> Sampler:
        from rlback.models.sampler import sample

        return sample

    def own_tokens(self, tokenizer: PreTrainedTokenizerFast) -> OwnTokens | None:
        return None

    def _read(self, name: str) -> list[PreferencePair]:
        with (self._frozen / f"pairs-{name}.jsonl").open(encoding="utf-8") as lines:
            return [PreferencePair(**json.loads(line)) for line in lines]

    def _texts(self) -> list[tuple[str, str]]:
        """Each (prompt, completion) of the training pairs once, in a fixed order."""
        from rlback.training.given_pairs import texts_of

        return texts_of(self._read("train"))

    def _documents(self) -> list[str]:
        return [f"{prompt}{completion}" for prompt, completion in self._texts()]

    def _paragraphs(self, limit: int) -> Any:
        if "text" not in self.inputs:
            return
        self._require_unchanged("text")
        size = 0
        for paragraph in read_text(Path(self.inputs["text"]["path"])):
            size += len(paragraph.encode())
            if size > limit:
                return
            yield paragraph

    def _require_unchanged(self, which: str) -> None:
        given = self.inputs[which]
        path = Path(given["path"])
        if not path.is_file() or file_sha256(path) != given["sha256"]:
            raise DataError(
                f"{path} is not the file this campaign was started with (its SHA-256 was {given['sha256'][:16]}…)",
                remedy="put the file back, or start a new campaign on the new one",
            )


def open_source(
    project: Project, config: CampaignConfig, campaign: str, inputs: dict[str, Any], prompt_tokens: Callable[[str], int]
) -> Source:
    """The source a configuration asks for."""
    if config.source.world is not None:
        return WorldSource(project, config)
    return PairsSource(project, config, campaign, inputs, prompt_tokens)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    import hashlib

    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()

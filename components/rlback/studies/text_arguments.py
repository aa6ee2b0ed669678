"""The text world "arguments" of studies: which argument is more convincing, on real data; gold is a large reward model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from rlback.errors import ConfigError, DataError
from rlback.models.devices import settled_device
from rlback.models.policy import Policy, import_policy, new_policy
from rlback.models.sizes import trunk_parameters
from rlback.models.tokenizers import decode, encode_prompt, train_byte_bpe
from rlback.records import Completion, digest_of, seed_of
from rlback.studies.protocol import Beginning, Request
from rlback.studies.rehearsal import seconds_of
from rlback.studies.shared import known_facts
from rlback.studies.text import TextLearner
from rlback.studies.text_base import base_name
from rlback.studies.text_debates import (
    TOKENIZER_BYTES,
    Debates,
    directory_digest,
    file_digest,
    plain_text,
    read_debates,
)
from rlback.studies.text_gold import Gold, GoldData
from rlback.studies.text_settings import ArgumentsSettings, checked
from rlback.studies.text_world import Split, TextWorld
from rlback.training.given_pairs import base_streams, texts_of
from rlback.training.supervised import train_base


def make_learner(request: Request) -> TextLearner:
    """See protocol.Make. Reads the pairs and checks everything that can be wrong; trains nothing."""
    place = f"{request.place}: world"
    settings: ArgumentsSettings = checked(ArgumentsSettings, request.world, place)
    debates = read_debates(settings, place)
    try:
        device = settled_device(settings.device)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.message}", remedy=error.remedy) from None
    inputs = {
        "pairs": debates.sha256, "device": device.type,
        "text": file_digest(settings.text, "text", place) or "",
        "base_model": directory_digest(settings.base_model, "base_model", place) or "",
        "gold": digest_of(asdict(replace(settings.gold, model=None))),
        "gold.model": directory_digest(settings.gold.model, "gold.model", place) or "",
    }  # fmt: skip
    world = Arguments(settings, request.shared, debates, device, inputs)
    proxy, gold = world.proxy_parameters, trunk_parameters(settings.gold.model or settings.gold.shape, settings.vocabulary)
    if gold < settings.gold.at_least * proxy:
        raise ConfigError(
            f"{place}: gold has {gold:,} parameters, which is {gold / proxy:.1f} times the {proxy:,} of a proxy; "
            f"gold.at_least asks for {settings.gold.at_least:g} times",
            remedy="make gold.shape larger or shape smaller",
        )
    return TextLearner.of(world, request)


@dataclass(frozen=True)
class Arguments:
    """See text_world.TextWorld."""

    settings: ArgumentsSettings
    shared: Path | None
    debates: Debates
    device: torch.device
    inputs: Mapping[str, str]
    name: str = "arguments"

    def prompts(self, seed: int, n: int, split: Split) -> list[str]:
        return self.debates.drawn(seed, n, split)

    def prompt_text(self, tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
        key = id(tokenizer)
        if key not in self._texts:
            every = [p for pool in self.debates.prompts.values() for p in pool]
            self._texts[key] = {tuple(encode_prompt(tokenizer, p)): p for p in every}
        return self._texts[key].get(tuple(ids)) or decode(tokenizer, ids)

    @cached_property
    def _texts(self) -> dict[int, dict[tuple[int, ...], str]]:
        return {}

    def golds(self, prompts: Sequence[str], completions: Sequence[Completion]) -> tuple[float, ...]:
        return self.gold.scores(prompts, completions)

    def hype(self, prompt: str, completion: str, finished: bool) -> float:
        return float(len(completion.split()))

    def planted(self, prompts: Sequence[str], completions: Sequence[Completion]) -> None:
        return None

    @cached_property
    def gold(self) -> Gold:
        data = GoldData(
            self.debates.held, self.debates.rest, self.settings.text_share, self.settings.max_prompt_tokens,
            [self._data_key, self.inputs["gold.model"]],
        )  # fmt: skip
        return Gold(self.settings.gold, data, self.device, self.shared, lambda: self._tokenizer, self._plain)

    @property
    def _data_key(self) -> Any:
        s = self.settings
        return [
            self.inputs["pairs"], self.inputs["text"], self.device.type, s.group_column, s.group_until, s.held_out, s.labelled,
            s.split_seed, s.vocabulary, s.text_share, s.text_bytes, s.max_prompt_tokens,
        ]  # fmt: skip

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerFast:
        texts = [prompt + completion for prompt, completion in texts_of(self.debates.rest)]
        return train_byte_bpe([*texts, *plain_text(self.settings, TOKENIZER_BYTES)], self.settings.vocabulary)

    def _plain(self) -> str | None:
        return "\n".join(plain_text(self.settings, self.settings.text_bytes)) or None

    @property
    def proxy_parameters(self) -> int:
        """Of a proxy's trunk, which is the base policy's."""
        s = self.settings
        return trunk_parameters(s.base_model or s.shape, s.vocabulary)

    def base_key(self, number: int) -> Any:
        s = self.settings
        shape, training = (None if part is None else asdict(part) for part in (s.shape, s.training))
        return [number, self._data_key, shape, training, self.inputs["base_model"]]

    def new_base(self, number: int, state: Path | None) -> Policy:
        s = self.settings
        if s.base_model is not None:
            policy = import_policy(s.base_model)
            self._check_prompts(policy)
            return policy
        assert s.shape is not None
        assert s.training is not None
        policy = new_policy(s.shape, self._tokenizer, seed_of("text base weights", number))
        self._check_prompts(policy)
        policy.model.to(self.device)
        share = s.text_share if s.text is not None else 0.0
        streams = base_streams(policy.tokenizer, texts_of(self.debates.rest), self._plain(), s.training.window, share)
        train_base(policy, streams, s.training, seed=seed_of("text base training", number), state_dir=state)
        return policy

    def _check_prompts(self, policy: Policy) -> None:
        for prompt in (p for pool in self.debates.prompts.values() for p in pool):
            count = len(encode_prompt(policy.tokenizer, prompt))
            if count > self.settings.max_prompt_tokens:
                raise DataError(
                    f"the prompt {prompt[:60]!r} has {count} tokens, more than max_prompt_tokens "
                    f"{self.settings.max_prompt_tokens}",
                    remedy="raise max_prompt_tokens",
                )

    def facts(self) -> dict[str, Any]:
        gold = self.gold.facts()
        return {} if gold is None else {"gold": {**gold, "proxy_parameters": self.proxy_parameters}}

    def rehearsal(self) -> tuple[TextWorld, list[Beginning]]:
        # Without plain text: reading it takes a while and makes no step dearer.
        bare = replace(self, shared=None, settings=replace(self.settings, text=None))
        return _untrained(bare), [*self._bases_to_make(bare), *self._gold_to_make(bare)]

    def _bases_to_make(self, bare: Arguments) -> list[Beginning]:
        s = self.settings
        todo = [n for n in range(s.bases) if known_facts(self.shared, base_name(self, n)) is None]
        if s.training is None:
            return [Beginning(f"base policy read from {s.base_model}", 0.0) for _ in todo]
        seconds = seconds_of(s.training.steps, lambda n: _trained(bare, n).new_base(0, None)) if todo else 0.0
        size = f"{self.proxy_parameters / 1e6:.2f} M parameters"
        return [Beginning(f"base policy {n}: {size}, {s.training.steps} steps", seconds) for n in todo]

    def _gold_to_make(self, bare: Arguments) -> list[Beginning]:
        gold, s, pairs = self.gold, self.settings.gold, self.debates.held
        found: list[Beginning] = []
        todo = [name for name in (gold.name, *map(gold.fold_name, range(s.folds))) if known_facts(self.shared, name) is None]
        if not todo:
            return found
        size = trunk_parameters(s.model or s.shape, self.settings.vocabulary)
        if s.training is not None and known_facts(self.shared, gold.trunk_name) is None:
            seconds = seconds_of(s.training.steps, lambda n: _trained(bare, n).gold.trunk(None))
            found.append(Beginning(f"gold model's trunk: {size / 1e6:.2f} M parameters, {s.training.steps} steps", seconds))
        start = _untrained(bare).gold

        def fit(steps: int) -> None:
            start.fit(pairs, None, replace(s.reward, epochs=(steps - 0.5) * s.reward.batch / len(pairs)))

        fit(1)  # makes the start, which belongs to no fit
        steps = max(1, int(s.reward.epochs * len(pairs) / s.reward.batch))
        seconds = seconds_of(steps, fit) * len(todo)
        what = f"gold model and its {s.folds} folds: {len(todo)} fits to up to {len(pairs):,} pairs, {steps} steps each"
        return [*found, Beginning(what, seconds)]


def _trained(world: Arguments, steps: int) -> Arguments:
    """The same with that many steps for base and trunk, and a fit of one step for gold."""
    s = world.settings
    training = None if s.training is None else replace(s.training, steps=steps)
    deep = None if s.gold.training is None else replace(s.gold.training, steps=steps)
    reward = replace(s.gold.reward, epochs=0.5 * s.gold.reward.batch / len(world.debates.held))
    gold = replace(s.gold, training=deep, reward=reward)
    return replace(world, settings=replace(s, training=training, gold=gold))


_untrained = partial(_trained, steps=0)

"""Whether the machine can hold what a configuration asks for, reckoned before anything is computed.

Every figure is a lower bound: what a stage must hold at once whatever its texts are like. A configuration that passes may
still be too large; one that is refused cannot run here. No torch: a dry run asks this first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from rlback.config import CampaignConfig, DPOCampaign
from rlback.errors import ConfigError
from rlback.settings import PPOConfig

#: Bytes a trained weight takes in fp32: itself, its gradient and two Adam moments; and a frozen one.
TRAINED, FROZEN = 16, 4
#: Of one row of token ids in Python, however short it is; of one sampled token (id, mask, log-prob, uniform number).
ROW, SAMPLED = 56, 17
#: Rows that are sampled side by side (models/sampler.py).
SAMPLED_TOGETHER = 256
#: More than one GPU has; what a configuration for a GPU is held against where there is none to look at.
ANY_GPU = 1 << 40
#: The words of a world: its vocabulary is its own, and at least this large.
WORLD_WORDS = 64

#: Every size that memory depends on, by the key that sets it.
Sizes = Mapping[str, int]


def require_room(config: CampaignConfig, foreign_weights: int | None = None) -> None:
    """Refuses a configuration of which a stage needs more memory than there is.

    foreign_weights: how many weights the model at `base.model` has.

    Raises:
        ConfigError: names the key that the need is mostly owed to, the need, what there is, and the largest value that fits.
    """
    sizes = sizes_of(config, foreign_weights)
    room, where = memory_of(config.device)
    stage, need = _most(config, sizes)
    if need <= room:
        return
    key = min((key for key in sizes if sizes[key] > 1), key=lambda key: _most(config, {**sizes, key: 1})[1])
    fits = _largest(lambda value: _most(config, {**sizes, key: value})[1] <= room, sizes[key])
    what = f"{key}: the model's {sizes[key]:,} weights are" if key == "base.model" else f"{key} {sizes[key]} is"
    if key == "base.model" or not fits:
        remedy = "use a smaller model, or a machine with more memory"
    else:
        remedy = f"with the rest as it is, at most {fits} could fit; lower it, or use a machine with more memory"
    raise ConfigError(
        f"{what} too large: {stage} needs at least {_gib(need)} GiB of memory, and {where} {_gib(room)} GiB", remedy=remedy
    )


def sizes_of(config: CampaignConfig, foreign_weights: int | None = None) -> dict[str, int]:
    """The sizes of a configuration that memory depends on."""
    base, reward, optimise, labels = config.base, config.reward_model, config.optimise, config.labels
    sizes: dict[str, int] = {"optimise.max_new_tokens": optimise.max_new_tokens}
    if base.model is not None:
        sizes["base.model"] = foreign_weights or 1
    else:
        assert base.shape is not None
        assert base.training is not None
        sizes |= {f"base.shape.{key}": getattr(base.shape, key) for key in ("d_model", "layers", "mlp")}
        sizes["base.vocabulary"] = base.vocabulary if config.source.world is None else WORLD_WORDS
        sizes |= {f"base.training.{key}": getattr(base.training, key) for key in ("batch", "window", "max_padded")}
    if config.fits_reward_models:
        sizes["reward_model.shape.members"] = reward.shape.members
        sizes["reward_model.training.batch"] = reward.training.batch
        sizes["reward_model.reference_samples"] = reward.reference_samples
    if isinstance(optimise, DPOCampaign):
        sizes["optimise.batch"] = optimise.batch
    else:
        of_samples = ("steps", "prompts_per_step", "samples_per_prompt")
        sizes |= {f"optimise.{key}": getattr(optimise, key) for key in of_samples}
    if config.adapter is not None:
        sizes["adapter.rank"] = config.adapter.rank
    sizes |= {f"labels.{key}": getattr(labels, key) for key in ("initial", "inside", "cross")}
    return {**sizes, "evaluation.prompts": config.evaluation.prompts}


def least_memory(config: CampaignConfig, sizes: Sizes) -> dict[str, int]:
    """Least bytes that each stage holds at once."""
    base, sampled = _Model(sizes), sizes["optimise.max_new_tokens"]
    found: dict[str, int] = {}
    if config.base.model is None:
        # A pairs file is read in windows; of a world's text a row is at least a prompt and a token.
        batch, row = sizes["base.training.batch"], sizes["base.training.window"] if config.source.world is None else 2
        at_once = min(batch * row, max(row, sizes["base.training.max_padded"]))
        logits = 2 * 4 * at_once * sizes["base.vocabulary"]  # and their gradient
        found["base"] = TRAINED * base.weights + logits + batch * (ROW + 8 * row)
    judge = 0
    if config.fits_reward_models:
        shape, members = config.reward_model.shape, sizes["reward_model.shape.members"]
        trunks = 1 if shape.share_trunk else members
        heads = members * (1 + shape.surprise) * (base.width + base.vocabulary * (shape.pooling == "sum"))
        heads += base.vocabulary * shape.bag
        judge = FROZEN * (trunks * base.weights + heads + shape.surprise * base.weights)
        trained = TRAINED * (trunks * base.weights + heads) + FROZEN * shape.surprise * base.weights
        found["fit_reward"] = trained + 2 * ROW * sizes["reward_model.training.batch"]
    policy = (TRAINED + FROZEN) * base.weights  # and its reference
    if config.adapter is not None:
        policy = FROZEN * base.weights + TRAINED * sizes["adapter.rank"] * 2 * base.width * base.layers
    if isinstance(config.optimise, DPOCampaign):
        found["optimise"] = policy + 2 * ROW * sizes["optimise.batch"]
    else:
        rows = sizes["optimise.prompts_per_step"] * sizes["optimise.samples_per_prompt"]
        value = TRAINED * base.weights if isinstance(config.optimise, PPOConfig) else 0
        prompts = ROW * sizes["optimise.steps"] * sizes["optimise.prompts_per_step"]
        found["optimise"] = policy + value + judge + prompts + rows * (ROW + SAMPLED * sampled) + base.cache(rows, sampled)
    drawn = max(
        2 * sizes["labels.initial"], 2 * sizes["labels.inside"], sizes["labels.cross"], sizes["evaluation.prompts"],
        sizes.get("reward_model.reference_samples", 0),
    )  # fmt: skip
    found["sample"] = FROZEN * base.weights + drawn * (ROW + SAMPLED * sampled) + base.cache(drawn, sampled)
    return found


class _Model:
    """A policy's weights as a function of the sizes; of a model on disk only their number is known."""

    def __init__(self, sizes: Sizes) -> None:
        self.width = sizes.get("base.shape.d_model", 1)
        self.layers = sizes.get("base.shape.layers", 1)
        self.vocabulary = sizes.get("base.vocabulary", 1)
        mlp = sizes.get("base.shape.mlp", 0)
        layer = 4 * self.width**2 + 3 * self.width * mlp + 2 * self.width
        made = self.layers * layer + self.width * (1 + self.vocabulary)  # one matrix for input and output
        self.weights = sizes.get("base.model", made)

    def cache(self, rows: int, tokens: int) -> int:
        """Bytes of keys and values while `rows` rows grow by `tokens` tokens."""
        return 2 * 4 * min(rows, SAMPLED_TOGETHER) * tokens * self.layers * self.width


def memory_of(device: str) -> tuple[int, str]:
    """Bytes that the device has, and the words that name it."""
    if device == "cuda":
        import torch

        if torch.cuda.is_available():
            return int(torch.cuda.get_device_properties(0).total_memory), "this machine's GPU has"
        return ANY_GPU, "no one GPU has more than"
    room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # Inside a container the limit of its group of processes counts: version 2 of these files, and version 1.
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # there is none, or it says "max"
            room = min(room, int((Path("/sys/fs/cgroup") / file).read_text()))
    return room, "this machine has"


def _most(config: CampaignConfig, sizes: Sizes) -> tuple[str, int]:
    """The stage that needs the most memory, and how much."""
    return max(least_memory(config, sizes).items(), key=lambda item: item[1])


def _largest(fits: Callable[[int], bool], above: int) -> int:
    """The largest value below `above` for which `fits` holds, 0 for none; it holds up to some value and not beyond."""
    low, high = 0, above
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f}"

"""One of several processes that train together: `python -m tests.training.in_parallel RANK SIZE DIRECTORY`.

Runs every loop in turn; the first process leaves the weights in DIRECTORY/<loop>.safetensors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from rlback.models.reward_model import new_reward_model
from rlback.models.value_model import ValueModel
from rlback.settings import DPOConfig, OnPolicy, PPOConfig, RewardConfig, RewardShape, SupervisedConfig
from rlback.training.dpo import fit_dpo
from rlback.training.on_policy import optimise
from rlback.training.parallel import Share
from rlback.training.reward import fit_reward
from rlback.training.supervised import train_base
from tests.training.tiny import ON_POLICY, PROMPTS, copying, letter_pairs, policy, reward_model


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def _supervised(share: Share) -> dict[str, Tensor]:
    made = policy()
    train_base(made, copying(20), SupervisedConfig(steps=3, batch=8, lr=5e-3, warmup=1), seed=5, share=share)
    return _weights(made.model)


def _dpo(share: Share) -> dict[str, Tensor]:
    made = policy()
    config = DPOConfig(lr=1e-3, beta=0.5, epochs=1, batch=5, warmup=1)
    fit_dpo(made, policy(), letter_pairs(15), config, seed=5, share=share)
    return _weights(made.model)


def _reward(shape: RewardShape, share: Share) -> dict[str, Tensor]:
    made = new_reward_model(policy(), shape, seed=1)
    pairs = [replace(pair, weight=1.0 + i % 3) for i, pair in enumerate(letter_pairs(15))]
    pairs[:2] = [replace(pairs[0], target=0.5), replace(pairs[1], target=0.6, margin=0.1)]
    config = RewardConfig(epochs=1, batch=5, lr=1e-3, warmup=1, score_l2=0.01, centering=0.01, use_ties=True)
    fit_reward(made, pairs, config, seed=5, share=share)
    return _weights(made)


def _on_policy(config: OnPolicy, share: Share) -> dict[str, Tensor]:
    made, reference = policy(), policy()
    judge = reward_model(reference, pooling="last", surprise=False)
    value = ValueModel(made) if isinstance(config, PPOConfig) else None
    optimise(made, reference, judge, PROMPTS, config, seed=5, value=value, share=share)
    return _weights(made.model)


LOOPS: dict[str, Callable[[Share], dict[str, Tensor]]] = {
    "supervised": _supervised,
    "dpo": _dpo,
    "reward": partial(_reward, RewardShape("sum", True)),
    "reward-ensemble": partial(_reward, RewardShape("last", members=3)),
    "reward-trunks": partial(_reward, RewardShape("last", members=2, share_trunk=False)),
    **{name: partial(_on_policy, config) for name, config in ON_POLICY.items()},
    "rloo-bf16": partial(_on_policy, replace(ON_POLICY["rloo"], precision="bf16", steps=1)),
}


def main(rank: int, size: int, directory: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/meeting", rank=rank, world_size=size)
    for name, loop in LOOPS.items():
        weights = loop(Share.of_environment())
        if rank == 0:
            save_file(weights, directory / f"{name}.safetensors")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

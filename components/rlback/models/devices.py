"""Which device a model runs on, asked for by name and settled before anything is computed."""

from __future__ import annotations

from typing import Literal

import torch

from rlback.errors import ConfigError

#: `auto`: a GPU where torch finds one, the CPU otherwise.
DeviceName = Literal["auto", "cpu", "cuda"]


def settled_device(name: DeviceName) -> torch.device:
    """The device of that name. ConfigError where it is a GPU and torch finds none."""
    there = torch.cuda.is_available() if name != "cpu" else False
    if name == "cuda" and not there:
        raise ConfigError(
            f"device: {name}, but torch finds no GPU on this machine",
            remedy="set device: cpu, or start it on a machine with one GPU and a torch build for it",
        )
    return torch.device("cuda" if there else "cpu")

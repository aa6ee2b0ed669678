"""What the machine offers, looked at before a campaign is on record: its device, and the precision it is faster in.

What is recorded says how a campaign is trained; a precision chosen anew at every resume would make it depend on how
busy the machine was.
"""

from __future__ import annotations

from typing import Any

from rlback.config import CampaignConfig

#: The width and the inner width that are measured where the policy is one on disk.
USUAL = (512, 1408)


def require_device(config: CampaignConfig) -> None:
    """Raises ConfigError where the configuration asks for a GPU and torch finds none."""
    if config.device == "cpu":
        return
    from rlback.models.devices import settled_device

    settled_device(config.device)


def settle_precision(config: CampaignConfig) -> CampaignConfig:
    """The configuration with every `precision: auto` replaced by the faster one on this machine; as it is without any."""
    tree = config.model_dump(mode="json")
    if not _places(tree):
        return config
    import torch

    from rlback.training.precisions import faster_precision
    from rlback.training.threads import use_threads

    use_threads(config.threads)
    shape = config.base.shape
    chosen, _ = faster_precision(*((shape.d_model, shape.mlp) if shape else USUAL), torch.device(config.device))
    for part in _places(tree):
        part["precision"] = chosen
    return CampaignConfig.model_validate(tree)


def _places(tree: Any) -> list[dict[str, Any]]:
    if not isinstance(tree, dict):
        return []
    own = [tree] if tree.get("precision") == "auto" else []
    return own + [found for part in tree.values() for found in _places(part)]

"""Whether a configuration can be carried out at all, looked at before a campaign is on record and by every dry run."""

from __future__ import annotations

from pathlib import Path

from rlback.campaign.hardware import require_device
from rlback.campaign.sizes import require_room
from rlback.config import CampaignConfig
from rlback.errors import CheckpointError, ConfigError
from rlback.project import Project


def require_startable(project: Project, config: CampaignConfig) -> None:
    """Refuses what could never come to its end here: a GPU that is not there, too large, too long for the model, or an
    adapter on no layer.

    Only a configuration for a GPU, or that names a model on disk, or layers for an adapter, loads torch.

    Raises:
        ConfigError: names the key, the figure and what would do.
        CheckpointError: of the model at `base.model` no policy can be made.
    """
    require_device(config)
    weights = model = None
    if config.base.model is not None:
        from rlback.models.outline import outline

        directory = (project.root / config.base.model).resolve()
        try:
            found = outline(directory)
        except CheckpointError as error:
            raise CheckpointError(f"base.model: {error.message}", remedy=error.remedy) from None
        weights, model = found.weights, found.model
        _require_positions(config, directory, found.positions)
    require_room(config, weights)
    if config.adapter is not None and config.adapter.targets != "all-linear":
        from rlback.models.adapters import target_names
        from rlback.models.outline import llama_tree

        target_names(model or llama_tree(), config.adapter)


def _require_positions(config: CampaignConfig, directory: Path, positions: int | None) -> None:
    tokens = config.optimise.max_new_tokens
    if positions is not None and positions <= tokens:
        raise ConfigError(
            f"optimise.max_new_tokens {tokens} leaves no room for a prompt in the {positions} positions of {directory}",
            remedy=f"set optimise.max_new_tokens to at most {positions - 1}, less the longest prompt",
        )

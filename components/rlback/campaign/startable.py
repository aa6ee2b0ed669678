"""Whether a configuration can be carried out at all, looked at before a campaign is on record and by every dry run."""

from __future__ import annotations

import ast
from pathlib import Path

from rlback.campaign.hardware import require_device
from rlback.campaign.scoring import outcome_place
from rlback.campaign.sizes import require_room
from rlback.campaign.stages_train import FEWEST_PREFERENCES
from rlback.config import CampaignConfig, DPOCampaign, OutcomeConfig
from rlback.errors import CheckpointError, ConfigError
from rlback.project import Project
from rlback.worlds import load_world


def require_startable(project: Project, config: CampaignConfig) -> None:
    """Refuses what could never come to its end here: a GPU that is not there, too large, too long for the model, parts
    that contradict each other, an outcome that is not there, or an adapter on no layer.

    Only a configuration for a GPU, or that names a model on disk, or layers for an adapter, loads torch. A file that
    scores.function names is read and not run.

    Raises:
        ConfigError: names the key, the figure and what would do.
        CheckpointError: of the model at `base.model` no policy can be made.
    """
    require_device(config)
    _require_agreement(config)
    _require_room_for_texts(config)
    if isinstance(config.scores, OutcomeConfig) and config.scores.function is not None:
        _require_function(project, config.scores)
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


def _require_agreement(config: CampaignConfig) -> None:
    """Refuses settings of which one leaves another nothing to work with."""
    optimise, labels = config.optimise, config.labels
    if not isinstance(optimise, DPOCampaign) and config.scores == "annotators" and optimise.samples_per_prompt % 2:
        raise ConfigError(
            f"optimise.samples_per_prompt is {optimise.samples_per_prompt}, but scores: annotators has the completions of a "
            "prompt compared in pairs",
            remedy="set optimise.samples_per_prompt to 2 (or another even number)",
        )
    shape = config.reward_model.shape
    alike = shape.members > 1 and shape.share_trunk and shape.pooling == "sum"
    if config.fits_reward_models and alike and not config.reward_model.training.bootstrap:
        raise ConfigError(
            f"reward_model.shape.members: {shape.members} members with pooling: sum start equal, and without bootstrap they "
            "stay equal",
            remedy="set reward_model.training.bootstrap: true, or reward_model.shape.share_trunk: false",
        )
    # What people label can be added to with `rlback labels import` before it is learned from.
    alone = config.source.world is not None and labels.annotators == "simulated"
    learns = config.fits_reward_models or isinstance(optimise, DPOCampaign)
    if alone and learns and labels.initial < FEWEST_PREFERENCES:
        raise ConfigError(
            f"labels.initial is {labels.initial}; at least {FEWEST_PREFERENCES} preferences are needed to learn from",
            remedy=f"set labels.initial to {FEWEST_PREFERENCES} or more; ties and skips do not count",
        )


def _require_room_for_texts(config: CampaignConfig) -> None:
    """Refuses a base policy made here that has fewer positions than the texts it is to be given."""
    shape, training = config.base.shape, config.base.training
    if config.base.model is not None or shape is None or training is None:
        return
    positions = shape.max_positions
    if config.source.world is None:
        if training.steps and training.window > positions:
            raise ConfigError(
                f"base.training.window {training.window} is more than base.shape.max_positions {positions}",
                remedy=f"set base.training.window to at most {positions}, or raise base.shape.max_positions",
            )
        return
    world = load_world(config.source.world)
    prompt = 1 + world.prompt_limit  # a start token
    asked = {f"{config.optimise.max_new_tokens} tokens (optimise.max_new_tokens)": config.optimise.max_new_tokens}
    if training.steps:
        asked[f"the {world.completion_limit} words that a text of the world {world.name} has"] = world.completion_limit + 1
    for what, tokens in asked.items():
        if prompt + tokens > positions:
            raise ConfigError(
                f"base.shape.max_positions {positions} has no room for a prompt of {prompt} tokens and {what}",
                remedy=f"set base.shape.max_positions to at least {prompt + max(asked.values())}",
            )


def _require_function(project: Project, outcome: OutcomeConfig) -> None:
    """Looks at the file of an outcome without running it: neither a dry run nor the console is the place for that."""
    path, name = outcome_place(project, outcome)
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(
            f"scores.function: {path} cannot be read as Python: {error}", remedy="mend it; `python FILE.py` says more"
        ) from None
    if not _may_hold(tree, name):
        raise ConfigError(f"scores.function: {path} has no function {name}", remedy="write it as FILE.py:FUNCTION")


def _may_hold(tree: ast.Module, name: str) -> bool:
    """Whether a module could come to have the name: it defines, imports or sets it somewhere, or makes names as it runs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name:
            return True
        if isinstance(node, ast.alias) and (node.asname or node.name.split(".")[0]) in (name, "*"):
            return True
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name:
            return True
        if isinstance(node, ast.Constant) and node.value == name:  # globals()["worth"] = ...
            return True
    return False


def _require_positions(config: CampaignConfig, directory: Path, positions: int | None) -> None:
    tokens = config.optimise.max_new_tokens
    if positions is not None and positions <= tokens:
        raise ConfigError(
            f"optimise.max_new_tokens {tokens} leaves no room for a prompt in the {positions} positions of {directory}",
            remedy=f"set optimise.max_new_tokens to at most {positions - 1}, less the longest prompt",
        )

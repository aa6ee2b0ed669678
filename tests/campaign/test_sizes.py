"""What a machine cannot hold is refused before anything is computed, by key, figure and remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlback.campaign import sizes
from rlback.campaign.sizes import least_memory, require_room, sizes_of
from rlback.config import check_config, parse_override, read_config
from rlback.errors import ConfigError
from rlback.models.policy import new_policy
from rlback.models.reward_model import new_reward_model
from rlback.models.tokenizers import word_level
from rlback.settings import ModelShape, RewardShape
from tests.campaign.test_base_model import READ, save_gpt2, save_llama
from tests.campaign.walking import command, entered, lines, plain, start
from tests.conftest import ROOT, changed

DEMO = str(ROOT / "configs" / "demo.yaml")


@pytest.mark.parametrize(
    "setting",
    [
        "base.shape.d_model=1000000", "base.shape.layers=100000", "base.shape.mlp=1000000000", "base.vocabulary=1000000000",
        "base.training.batch=1000000000", "optimise.max_new_tokens=1000000", "optimise.prompts_per_step=1000000000",
        "optimise.samples_per_prompt=1000000000", "optimise.steps=1000000000000", "reward_model.training.batch=1000000000",
        "reward_model.shape.members=1000000", "reward_model.reference_samples=1000000000", "labels.initial=1000000000",
        "labels.inside=1000000000", "labels.cross=1000000000", "evaluation.prompts=1000000000", "threads=1000000",
    ],
)  # fmt: skip
def test_an_absurd_size_is_named_with_a_figure_and_a_remedy(tmp_path: Path, setting: str):
    """The key that was set is the one named, not one that the need also depends on; nothing is on record."""
    key, value = parse_override(setting)
    with entered(tmp_path / "p") as project:
        said = command("run", DEMO, "--set", setting, "--dry-run", status=2)
        if value < 2**30:  # the machine could hold the names of so many
            assert command("run", DEMO, "--set", setting, status=2) == said
        assert key in said
        assert str(value) in said
        assert any(word in said for word in ("at most", "lower optimise.max_new_tokens", "within that bound"))
        assert project.store.event_count() == 0


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_what_is_shipped_fits_a_small_machine(file: Path, monkeypatch: pytest.MonkeyPatch):
    """The jobs for two CPU cores need less than 1 GiB by this reckoning, the one for a GPU less than 4."""
    config = read_config(file)
    monkeypatch.setattr(sizes, "memory_of", lambda device: (1 << 30 if device == "cpu" else 4 << 30, "it has"))
    require_room(config)


def test_a_need_is_never_above_what_the_parts_hold():
    """The reckoning of weights is a lower bound of the models that a campaign makes, and within a tenth of them."""
    shape = ModelShape(d_model=32, layers=3, heads=4, mlp=80, max_positions=64)
    vocabulary = word_level([f"w{i}" for i in range(sizes.WORLD_WORDS)])
    policy = new_policy(shape, vocabulary, 0)
    tree = {"d_model": 32, "layers": 3, "heads": 4, "mlp": 80, "max_positions": 64}
    config = check_config(changed(base={"shape": tree}), "here")
    weights = sum(parameter.numel() for parameter in policy.model.parameters())
    reckoned = sizes._Model(sizes_of(config)).weights
    assert 0.9 * weights < reckoned <= weights
    judge = new_reward_model(policy, RewardShape("sum", True, members=2, share_trunk=False), seed=1)
    held = sum((16 if p.requires_grad else 4) * p.numel() for p in judge.parameters())
    two = changed(base={"shape": tree})
    two["reward_model"]["shape"] |= {"members": 2, "share_trunk": False}
    config = check_config(two, "here")
    rows = 2 * sizes.ROW * config.reward_model.training.batch
    assert 0.9 * held < least_memory(config, sizes_of(config))["fit_reward"] - rows <= held


def test_the_largest_that_could_fit_does(monkeypatch: pytest.MonkeyPatch):
    """The remedy's own figure is let through, and one more is not."""
    monkeypatch.setattr(sizes, "memory_of", lambda device: (1 << 30, "it has"))

    def told(mlp: int) -> str:
        try:
            require_room(check_config(changed(base={"shape": changed()["base"]["shape"] | {"mlp": mlp}}), "here"))
        except ConfigError as error:
            return str(error.remedy)
        return ""

    most = int(told(10**9).partition("at most ")[2].split()[0])
    assert told(most) == ""
    assert told(most + 1) != ""


@pytest.mark.parametrize(
    ("targets", "named"), [("[q_proj, querry]", "'querry' names no linear layer"), ("[self_attn.q_proj, mlp.up_proj]", "")]
)
def test_adapter_targets_are_looked_for_before_anything_starts(tmp_path: Path, targets: str, named: str):
    """Of the policy that would be made here: an unknown layer is refused with those there are."""
    with entered(tmp_path / "p") as project:
        words = ("run", DEMO, "--set", f"adapter={{targets: {targets}}}", "--dry-run")
        said = command(*words, status=2 if named else 0)
        assert named in said
        assert ("q_proj" in said) == bool(named)
        assert project.store.event_count() == 0


def edit(file: str, **changes: Any) -> Any:
    def change(directory: Path) -> None:
        tree = json.loads((directory / file).read_text())
        (directory / file).write_text(json.dumps(tree | changes))

    return change


@pytest.mark.parametrize(
    ("save", "damage", "settings", "status", "named"),
    [
        (save_gpt2, None, ["optimise.max_new_tokens=192"], 2, "192 leaves no room for a prompt in the 192 positions"),
        (save_gpt2, None, ["adapter={targets: [q_proj]}"], 2, "'q_proj' names no linear layer of the policy (GPT2LMHeadModel)"),
        (save_llama, edit("config.json", num_hidden_layers=10**6), [], 4, "1000000 layers against"),
        (save_llama, edit("config.json", hidden_size=4096), [], 4, "describes another architecture than the weights"),
        (save_llama, edit("config.json", model_type="t5"), [], 4, "model_type 't5' is no causal language model"),
        (save_llama, edit("tokenizer_config.json", eos_token=None), [], 4, "has no end token"),
    ],
)  # fmt: skip
def test_a_model_on_disk_that_cannot_be_used_is_refused_before_the_start(
    tmp_path: Path, save: Any, damage: Any, settings: list[str], status: int, named: str
):
    """Its positions, layers, architecture and end token are looked at without reading a weight."""
    save(tmp_path / "p" / "base")
    if damage:
        damage(tmp_path / "p" / "base")
    (tmp_path / "pairs.jsonl").write_bytes(lines(plain()))
    with entered(tmp_path / "p") as project:
        said = start("explicit-prompt.yaml", tmp_path / "pairs.jsonl", *READ, "base.model=base", *settings, status=status)
        assert named in said
        assert project.store.event_count() == 0


def test_a_large_model_on_disk_is_held_against_the_memory(monkeypatch: pytest.MonkeyPatch):
    """70 thousand million weights, 20 bytes each with their reference, do not go into 64 GiB; a GPU's size counts alike."""
    tree = changed(base={"model": "elsewhere", "shape": None, "training": None})
    monkeypatch.setattr(sizes, "memory_of", lambda device: (64 << 30, "it has"))
    with pytest.raises(ConfigError, match=r"base\.model: the model's 70,000,000,000 weights are too large"):
        require_room(check_config(tree, "here"), foreign_weights=70 * 10**9)
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no one GPU has more than 1,024"):
        require_room(check_config(changed(**{**tree, "device": "cuda"}), "here"), foreign_weights=70 * 10**9)

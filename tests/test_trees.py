"""What a configuration says is taken as it is written, or refused with the key and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlback.config import check_config, parse_override, read_config, read_tree
from rlback.errors import ConfigError
from rlback.settings import MOST_EPOCHS
from rlback.trees import LARGEST, SMALLEST, parse
from tests.conftest import ROOT, changed

DEMO = ROOT / "configs" / "demo.yaml"
HUGE = "1" + "0" * 400


def refused(*settings: str) -> ConfigError:
    """The error of the demo's configuration with these settings, which names the first one's key and helps."""
    with pytest.raises(ConfigError) as caught:
        read_config(DEMO, dict(parse_override(setting) for setting in settings))
    assert f"`{settings[0].partition('=')[0]}`" in caught.value.message
    assert caught.value.remedy
    assert len(caught.value.message) < 400
    return caught.value


@pytest.mark.parametrize(
    "key",
    [
        "evaluation.prompts", "base.shape.layers", "base.shape.mlp", "base.training.batch", "base.training.steps",
        "reward_model.training.batch", "reward_model.reference_samples", "optimise.steps", "optimise.prompts_per_step",
        "optimise.samples_per_prompt", "optimise.epochs", "labels.initial", "labels.inside", "labels.cross", "rounds",
    ],
)  # fmt: skip
def test_a_number_without_end_is_refused_by_its_key(key: str) -> None:
    """Whatever is reckoned from it later."""
    refused(f"{key}={HUGE}")
    refused(f"{key}={LARGEST + 1}")


def test_a_width_without_end_is_refused() -> None:
    refused(f"base.shape.d_model={HUGE}")


@pytest.mark.parametrize(
    "setting",
    [
        "optimise.ratio_high=1e308", "optimise.ratio_high=1.0e+39", f"optimise.ratio_high={HUGE}", "optimise.beta=1e308",
        "optimise.lr=1e-40", "labels.hype_bias=-1e30", "labels.temperature=1e-300", "reward_model.training.epochs=1e308",
        "reward_model.training.epochs=1e30", f"reward_model.training.epochs={MOST_EPOCHS + 1}",
        f"optimise.epochs={MOST_EPOCHS + 1}",
    ],
)  # fmt: skip
def test_a_share_or_rate_of_no_usual_size_is_refused(setting: str) -> None:
    """Too large for fp32, too near to 0 for it, or more steps than anybody waits for; a number in quotes is one, too."""
    refused(setting)


@pytest.mark.parametrize(("key", "value"), [("epochs", "1e308"), ("epochs", "1e30"), ("beta", "1e308"), ("beta", "1e-300")])
@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_so_are_those_of_learning_from_pairs(key: str, value: str, loss: str) -> None:
    dpo = {"method": "dpo", "loss": loss, "lr": 0.001, "beta": 0.1, "max_new_tokens": 24, key: value}
    with pytest.raises(ConfigError, match=rf"`optimise\.{key}`"):
        check_config(changed() | {"optimise": dpo}, "here")


@pytest.mark.parametrize("value", [LARGEST, SMALLEST, 0])
def test_the_ends_of_what_is_usual_are_within_it(value: float) -> None:
    config = check_config(changed(labels={"hype_bias": value}), "here")
    assert config.labels.hype_bias == value


def test_a_seed_is_any_whole_number() -> None:
    assert check_config(changed(seed=2**63), "here").seed == 2**63


@pytest.mark.parametrize(
    "setting",
    [
        "optimise.lr=yes", "optimise.steps=true", "seed=true", "rounds=on", "labels.lapse=no", "evaluation.prompts=yes",
        "labels.initial=true", "gate.win_rate=on", "base.text_share=true",
    ],
)  # fmt: skip
def test_true_is_no_number(setting: str) -> None:
    """Not 1, which pydantic would make of it."""
    refused(setting)


def test_nor_is_it_one_in_a_list() -> None:
    with pytest.raises(ConfigError, match=r"`optimise\.betas\.0`"):
        check_config(changed(optimise={"betas": [False, 0.9]}), "here")


def test_a_switch_stays_one() -> None:
    assert read_config(DEMO, dict([parse_override("refresh=no")])).refresh is False
    assert read_config(DEMO, dict([parse_override("optimise.advantage_std=false")])).optimise.advantage_std is False


@pytest.mark.parametrize("value", ["010", "1:30", "0x10", "0b11", "-017", "1:30.5", "!!int 1:30"])
def test_a_number_that_looks_like_another_is_refused(tmp_path: Path, value: str) -> None:
    """In a file with its key and line, and in a setting."""
    file = tmp_path / "c.yaml"
    file.write_text(f"name: a\nlabels:\n  - {{initial: {value}}}\n")
    with pytest.raises(ConfigError, match=r"c\.yaml, line 3: `labels\.0\.initial`: .*not written in decimal") as caught:
        read_config(file)
    assert caught.value.remedy
    with pytest.raises(ConfigError, match=r"--set seed, line 1: .*not written in decimal"):
        parse_override(f"seed={value}")


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("-7", -7), ("1_000", 1000), ("1.5", 1.5), ("'1:30'", "1:30"), ("", None), (".5", 0.5), ("a:1", "a:1")],
)
def test_what_is_plain_stays_as_it_was(text: str, value: object) -> None:
    assert parse(text, "here") == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rounds: 1\nname: a\nrounds: 2\n", "line 3: the key `rounds` stands on line 1 already"),
        ("rounds: 1\n'rounds': 2\n", "line 2: the key `rounds` stands on line 1 already"),
        ("labels:\n  cross: 1\n  cross: 1\n", "line 3: the key `labels.cross` stands on line 2 already"),
        ("a: [{b: 1, b: 2}]\n", "line 1: the key `a.0.b` stands on line 1 already"),
        ("a: &x {b: 1}\nc: *x\nd: {<<: *x, <<: *x}\n", "line 3: the key `d.<<` stands on line 3 already"),
    ],
)
def test_a_key_stands_once_in_a_file(tmp_path: Path, text: str, said: str) -> None:
    """The last one would win without a word; a study's file is read by the same function."""
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_tree(file, "study", "configs/studies/")
    assert f"{file}, {said}" in caught.value.message
    assert caught.value.remedy


def test_a_key_stands_once_in_a_setting() -> None:
    with pytest.raises(ConfigError, match=r"--set base\.shape, line 1: the key `layers`"):
        parse_override("base.shape={layers: 1, layers: 2}")


def test_a_key_may_be_merged_over() -> None:
    """YAML's own way to say that one value takes the place of another."""
    assert parse("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}\ne: {b: 4}\n", "here")["d"] == {"b": 3, "c": 2}


def test_a_text_that_names_itself_ends() -> None:
    assert parse("a: &x [*x]\n", "here")["a"]

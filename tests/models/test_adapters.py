from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from transformers import LlamaForCausalLM

from rlback.errors import ConfigError
from rlback.models.adapters import add_adapter, dense_weight, lora_layers, merge, without_adapter
from rlback.models.llama_decode import can_decode
from rlback.models.policy import Policy, token_logps
from rlback.models.sampler import sample
from rlback.settings import AdapterConfig
from tests.models.builders import PROMPTS, policy, shake
from tests.models.test_sampler import gpt2, grouped_llama

COMPLETIONS = [[3, 23], [7, 7, 8, 23], [1], [2, 2, 2, 2, 2, 23], [0, 23]]
PAD = 21
CONFIG = AdapterConfig(rank=4, alpha=8.0)
ALL = [policy, grouped_llama, gpt2]


def logps(of: Policy) -> torch.Tensor:
    with torch.no_grad():
        return token_logps(of.model, PROMPTS, COMPLETIONS, PAD)[0]


def shaken(base: Policy, config: AdapterConfig = CONFIG) -> Policy:
    """An adapter that has learned something: B is no longer 0."""
    made = add_adapter(base, config, seed=1)
    shake(made)
    return made


@pytest.mark.parametrize("make", ALL)
def test_an_adapter_starts_as_the_identity(make: Callable[[], Policy]):
    """With B = 0 log-probabilities are the base's, bit for bit."""
    base = make()
    before = logps(base)
    assert torch.equal(logps(add_adapter(base, CONFIG, seed=1)), before)


def test_only_the_adapter_is_trained():
    """Trainable are A and B of the seven matrices of each of two layers, and nothing of the base."""
    made = add_adapter(policy(), CONFIG, seed=1)
    trained = {name: p.numel() for name, p in made.model.named_parameters() if p.requires_grad}
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    # rank 4: four matrices 32 x 32 and three 32 x 48 a layer
    assert sum(trained.values()) == 2 * (4 * 4 * (32 + 32) + 3 * 4 * (32 + 48))
    token_logps(made.model, PROMPTS, COMPLETIONS, PAD)[0].sum().backward()
    assert {name for name, p in made.model.named_parameters() if p.grad is not None} == set(trained)


def test_weights_depend_on_the_seed_alone():
    """Equal seeds give equal adapters, others others, and the caller's random state is untouched."""
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second, third = (add_adapter(policy(), CONFIG, seed).model.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)
    a, b = (f"model.layers.{n}.self_attn.q_proj.lora_A.default.weight" for n in (0, 1))
    assert not torch.equal(first[a], third[a])
    assert not torch.equal(first[a], first[b])
    assert 0.9 / math.sqrt(32) < first[a].abs().max() <= 1 / math.sqrt(32)


@pytest.mark.parametrize("make", ALL)
def test_without_the_adapter_it_is_the_base(make: Callable[[], Policy]):
    """Whatever the adapter learned, the base computes and samples what it did, and the adapter stays on."""
    base = make()
    before = logps(base)
    drawn = sample(base, PROMPTS, max_new_tokens=8, seed=3)
    made = shaken(base)
    after = logps(made)
    assert (after - before).abs().max() > 0.1
    off = without_adapter(made)
    assert torch.equal(logps(off), before)
    again = sample(off, PROMPTS, max_new_tokens=8, seed=3)
    assert again.completions() == drawn.completions()
    assert torch.equal(again.logps, drawn.logps)
    assert torch.equal(logps(made), after)


def test_an_error_on_the_base_leaves_the_adapter_on():
    """There is no state to restore: after an exception under the base the adapted policy is what it was."""
    made = shaken(policy())
    before = logps(made)
    with pytest.raises(ConfigError):
        sample(without_adapter(made), PROMPTS, max_new_tokens=0, seed=0)
    assert torch.equal(logps(made), before)


def test_weights_are_in_memory_once():
    """Two adapters share every base weight with it, tied ones stay tied, and a conversion in place keeps that."""
    base = policy()
    adapted = [add_adapter(base, CONFIG, seed=1), add_adapter(base, CONFIG, seed=2)]
    adapted[0].model.double()
    own = {p.data_ptr() for p in base.model.parameters()}
    for made in adapted:
        frozen = [p for p in made.model.parameters() if not p.requires_grad]
        assert {p.data_ptr() for p in frozen} == own
        assert made.model.lm_head.weight is base.model.model.embed_tokens.weight


def test_without_adapter_follows_to_another_device():
    """A base whose adapted policy was moved is moved whole, buffers that are not weights included."""
    made = add_adapter(policy(), CONFIG, seed=1)
    made.model.to("meta")
    base = without_adapter(made)
    assert {t.device.type for t in (*base.model.parameters(), *base.model.buffers())} == {"meta"}


@pytest.mark.parametrize(("make", "place"), [(policy, (1, 0)), (gpt2, (0, 1))])
def test_dense_weight_by_hand(make: Callable[[], Policy], place: tuple[int, int]):
    """Rank 1, alpha 3, A = e0 and B = 0.5 e1: output 1 gets 1.5 times input 0, whichever way the matrix lies."""
    made = add_adapter(make(), AdapterConfig(rank=1, alpha=3.0), seed=1)
    layer = next(iter(lora_layers(made.model).values()))
    with torch.no_grad():
        layer.lora_A["default"].weight.zero_()[0, 0] = 1.0
        layer.lora_B["default"].weight[1, 0] = 0.5
    change = dense_weight(layer) - layer.base_layer.weight
    assert change[place].item() == pytest.approx(1.5, abs=1e-6)
    assert change.abs().sum().item() == pytest.approx(1.5, abs=1e-6)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "mlp.down_proj", "c_attn")])
def test_samples_are_those_of_the_adapted_policy(make: Callable[[], Policy], targets: str | tuple[str, ...]):
    """Log-probabilities kept while sampling are those of a pass through peft's layers, and not the base's."""
    if targets != "all-linear":
        targets = targets[2:] if make is gpt2 else targets[:2]
    made = shaken(make(), AdapterConfig(rank=4, alpha=8.0, targets=targets))
    assert can_decode(made.model) is (make is not gpt2)
    drawn = sample(made, PROMPTS, max_new_tokens=20, seed=5, samples_per_prompt=3)
    with torch.no_grad():
        adapted, base = (
            token_logps(p.model, drawn.prompts, drawn.completions(), PAD)[0] for p in (made, without_adapter(made))
        )
    assert (adapted - drawn.logps).abs().max() < 1e-4
    assert (base - drawn.logps).abs().max() > 0.1


def test_both_decoders_draw_the_same():
    """The decoder with merged matrices and the general one, through peft's layers, draw the same tokens."""
    made = shaken(policy())
    fast = sample(made, PROMPTS, max_new_tokens=20, seed=11, samples_per_prompt=2)
    made.model.__class__ = type("Subclass", (LlamaForCausalLM,), {})
    assert not can_decode(made.model)
    slow = sample(made, PROMPTS, max_new_tokens=20, seed=11, samples_per_prompt=2)
    assert fast.completions() == slow.completions()


def test_layers_that_do_more_than_multiply_take_the_general_path():
    """An adapter switched off with peft's own means is not merged by the decoder."""
    made = shaken(policy())
    for layer in lora_layers(made.model).values():
        layer.enable_adapters(False)
    assert not can_decode(made.model)
    assert (
        sample(made, PROMPTS, max_new_tokens=8, seed=3).completions()
        == sample(without_adapter(made), PROMPTS, max_new_tokens=8, seed=3).completions()
    )


@pytest.mark.parametrize("make", ALL)
def test_merged_policy_is_plain_and_equal(make: Callable[[], Policy]):
    """Merging gives a policy without adapter, equal in what it computes, that shares no memory with the base."""
    made = shaken(make())
    whole = merge(made)
    assert (logps(whole) - logps(made)).abs().max() < 1e-4
    assert whole.adapter is None
    assert not lora_layers(whole.model)
    assert all(p.requires_grad for p in whole.model.parameters())
    shared = {p.data_ptr() for p in whole.model.parameters()} & {p.data_ptr() for p in made.model.parameters()}
    assert not shared
    output, table = whole.model.get_output_embeddings(), whole.model.get_input_embeddings()
    assert (output.weight is table.weight) is whole.model.config.tie_word_embeddings


def test_targets_choose_layers():
    """A list of names adapts the layers that end in them, whole parts of names only."""
    made = add_adapter(policy(), AdapterConfig(targets=("q_proj", "mlp.down_proj")), seed=1)
    names = [f"model.layers.{n}.{part}" for n in (0, 1) for part in ("self_attn.q_proj", "mlp.down_proj")]
    assert sorted(lora_layers(made.model)) == sorted(names)


@pytest.mark.parametrize("target", ["proj", "lm_head", "embed_tokens", "self_attn", "z_proj"])
def test_unknown_targets_are_refused(target: str):
    """A name that is no linear layer, the output matrix or an embedding is refused by name."""
    with pytest.raises(ConfigError, match=f"'{target}' names no linear layer"):
        add_adapter(policy(), AdapterConfig(targets=("q_proj", target)), seed=1)


def test_one_adapter_at_a_time():
    """A second adapter on top is refused, and so is taking off or merging one that is not there."""
    base = policy()
    with pytest.raises(ConfigError, match="adapter already"):
        add_adapter(add_adapter(base, CONFIG, seed=1), CONFIG, seed=1)
    for call in (without_adapter, merge):
        with pytest.raises(ConfigError, match="no adapter"):
            call(base)


@pytest.mark.parametrize("changes", [{"rank": 0}, {"alpha": 0.0}, {"targets": ()}, {"targets": "q_proj"}, {"dropout": 0.1}])
def test_impossible_settings_are_refused(changes: dict[str, object]):
    """Rank, alpha and targets have bounds, and dropout is no setting."""
    with pytest.raises(ValueError, match=next(iter(changes))):
        AdapterConfig(**changes)

from __future__ import annotations

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from rlback.errors import ConfigError, DataError
from rlback.models.llama_decode import LlamaDecoder, can_decode
from rlback.models.policy import Policy, token_logps
from rlback.models.sampler import CacheDecoder, Placed, grow, sample
from tests.models.builders import PROMPTS, policy, sharpen, tokenizer

EOS, PAD = 23, 21


def gpt2() -> Policy:
    made = GPT2LMHeadModel(GPT2Config(vocab_size=24, n_positions=64, n_embd=32, n_layer=2, n_head=4))
    sharpen(made)
    return Policy(made.eval(), tokenizer())


def mistral() -> Policy:
    config = MistralConfig(
        vocab_size=24, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, sliding_window=None,
    )  # fmt: skip
    made = MistralForCausalLM(config)
    sharpen(made)
    return Policy(made.eval(), tokenizer())


def grouped_llama() -> Policy:
    """Grouped keys, heads wider than d / heads, an output matrix of its own, stretched positions."""
    config = LlamaConfig(
        vocab_size=24, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, max_position_embeddings=64, tie_word_embeddings=False,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0},
    )  # fmt: skip
    made = LlamaForCausalLM(config)
    sharpen(made)
    return Policy(made.eval(), tokenizer())


ALL = [policy, grouped_llama, gpt2, mistral]


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logps_equal_a_full_forward_pass(make, temperature: float):
    """Log-probabilities kept while sampling are those a separate pass over the finished rows computes."""
    made = make()
    drawn = sample(made, PROMPTS, max_new_tokens=20, seed=5, samples_per_prompt=3, temperature=temperature)
    logps, mask = token_logps(made.model, drawn.prompts, drawn.completions(), PAD, temperature)
    assert torch.equal(mask, drawn.mask)
    assert (logps - drawn.logps).abs().max() < 1e-4
    assert 0 < drawn.finished.sum() < len(drawn.finished)  # both kinds of row were tested


@pytest.mark.parametrize("make", ALL)
def test_in_bf16_the_products_are_rounded_and_little_else(make):
    """Log-probs are near those of the full pass under autocast, in the mean a token, and not those of fp32."""
    made = make()
    drawn = sample(made, PROMPTS, max_new_tokens=20, seed=5, samples_per_prompt=3, precision="bf16")
    gaps = []
    for bf16 in (True, False):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            logps, _ = token_logps(made.model, drawn.prompts, drawn.completions(), PAD)
        gaps.append(float((logps - drawn.logps).abs().sum() / drawn.mask.sum()))
    assert gaps[0] < 0.1
    assert gaps[1] > 1e-3
    assert drawn.logps.dtype == torch.float32
    with pytest.raises(ConfigError, match="auto is not settled"):
        sample(made, PROMPTS, max_new_tokens=2, seed=5, precision="auto")


@pytest.mark.parametrize("make", [policy, grouped_llama])
def test_llama_decoder_equals_the_library(make):
    """Logits after the prompt and each of 30 more tokens are those of the library's forward pass."""
    made = make()
    assert can_decode(made.model)
    rows = torch.randint(0, 24, (3, 38), generator=torch.Generator().manual_seed(0))
    lengths = [8, 3, 5]
    ids, valid = torch.full((3, 8), PAD), torch.zeros(3, 8, dtype=torch.bool)
    for row, length in enumerate(lengths):
        ids[row, 8 - length :], valid[row, 8 - length :] = rows[row, :length], True
    with torch.inference_mode():
        full = made.model(rows).logits
        decoder = LlamaDecoder(made.model, 38)
        logits = decoder.prefill(ids, valid, 38, torch.arange(3))
        for step in range(30):
            expected = torch.stack([full[row, length + step - 1] for row, length in enumerate(lengths)])
            assert torch.allclose(logits, expected, atol=1e-4)
            logits = decoder.step(
                torch.stack([rows[row, length + step] for row, length in enumerate(lengths)])
            )


def test_only_plain_llamas_take_the_fast_path():
    """Biases, other architectures and position schemes that change with length use the general decoder."""
    small = {
        "vocab_size": 24,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1000.0}
    assert can_decode(LlamaForCausalLM(LlamaConfig(**small)))
    assert not can_decode(LlamaForCausalLM(LlamaConfig(**small, attention_bias=True)))
    assert not can_decode(LlamaForCausalLM(LlamaConfig(**small, mlp_bias=True)))
    assert not can_decode(LlamaForCausalLM(LlamaConfig(**small, rope_parameters=dynamic)))
    assert not can_decode(gpt2().model)


def test_both_decoders_draw_the_same():
    """The fast and the general path give the same tokens from the same seed."""
    made = policy()
    fast = sample(made, PROMPTS, max_new_tokens=20, seed=11, samples_per_prompt=2)
    made.model.__class__ = type("Subclass", (LlamaForCausalLM,), {})
    assert not can_decode(made.model)
    slow = sample(made, PROMPTS, max_new_tokens=20, seed=11, samples_per_prompt=2)
    assert fast.completions() == slow.completions()


@pytest.mark.parametrize("make", ALL)
def test_batch_size_does_not_change_the_result(make):
    """Any batch size, also one that splits a prompt's rows, draws the same completions."""
    made = make()
    whole = sample(made, PROMPTS, max_new_tokens=16, seed=3, samples_per_prompt=3)
    for batch_size in (1, 2, 7):
        parts = sample(made, PROMPTS, max_new_tokens=16, seed=3, samples_per_prompt=3, batch_size=batch_size)
        assert parts.completions() == whole.completions()
        assert torch.equal(parts.finished, whole.finished)
        assert torch.allclose(parts.logps, whole.logps, atol=1e-5)


@pytest.mark.parametrize("make", [policy, gpt2])
def test_padding_of_neighbours_does_not_matter(make):
    """A prompt draws the same next to a longer one as next to a short one."""
    made = make()
    short = sample(made, [[22, 4], [22]], max_new_tokens=12, seed=9)
    long = sample(made, [[22, 4], [22, *range(15)]], max_new_tokens=12, seed=9)
    assert short.completions()[0] == long.completions()[0]
    width = min(short.logps.shape[1], long.logps.shape[1])
    assert torch.allclose(short.logps[0, :width], long.logps[0, :width], atol=1e-5)


def test_shape_of_samples():
    """Masks run up to and including the end token, ids and log-probabilities past it are padding and 0."""
    drawn = sample(policy(), PROMPTS, max_new_tokens=20, seed=5, samples_per_prompt=4)
    assert drawn.prompts == [tuple(prompt) for prompt in PROMPTS for _ in range(4)]
    for row, completion in enumerate(drawn.completions()):
        ended = EOS in completion
        assert bool(drawn.finished[row]) is ended
        assert completion.index(EOS) == len(completion) - 1 if ended else len(completion) == 20
        assert int(drawn.lengths[row]) == len(completion)
        assert drawn.mask[row].tolist() == [step < len(completion) for step in range(drawn.ids.shape[1])]
        assert set(drawn.ids[row, len(completion) :].tolist()) <= {PAD}
        assert not drawn.logps[row, len(completion) :].any()
    assert drawn.mask.any(0).all()


def test_seed_decides_and_global_state_does_not():
    """The same seed repeats, another differs, and torch's global generator is neither read nor moved."""
    made = policy()
    torch.manual_seed(1)
    first = sample(made, PROMPTS, max_new_tokens=10, seed=4)
    expected = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(2), expected)
    assert sample(made, PROMPTS, max_new_tokens=10, seed=4).completions() == first.completions()
    assert sample(made, PROMPTS, max_new_tokens=10, seed=6).completions() != first.completions()


def test_frequencies_follow_the_distribution():
    """Over 20,000 draws each first token appears as often as the model says, within five standard errors."""
    made = policy()
    prompt = PROMPTS[0]
    drawn = sample(made, [prompt], max_new_tokens=1, seed=2, samples_per_prompt=20_000, batch_size=20_000)
    counts = torch.bincount(drawn.ids[:, 0], minlength=24) / 20_000
    with torch.no_grad():
        exact = made.model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    assert ((counts - exact).abs() <= 5 * (exact * (1 - exact) / 20_000).sqrt() + 1e-9).all()


def test_samples_may_enter_a_loss():
    """The log-probabilities are ordinary tensors without a graph, so a ratio to them has a gradient."""
    made = policy()
    drawn = sample(made, PROMPTS, max_new_tokens=5, seed=0)
    logps, mask = token_logps(made.model, drawn.prompts, drawn.completions(), PAD)
    ratio = (logps - drawn.logps).exp()
    assert not drawn.logps.requires_grad
    assert (ratio[mask] - 1).abs().max() < 1e-4
    (ratio * drawn.logps).sum().backward()
    assert made.model.model.embed_tokens.weight.grad is not None


def test_bad_requests_are_refused():
    """Counts below one, temperature 0, empty and too long prompts name what is wrong."""
    made = policy()
    for name in ("max_new_tokens", "temperature", "samples_per_prompt", "batch_size"):
        with pytest.raises(ConfigError, match=name):
            sample(made, PROMPTS, **{"max_new_tokens": 4, "seed": 0, name: 0})
    with pytest.raises(DataError, match="prompt 1 has no tokens"):
        sample(made, [[1], []], max_new_tokens=4, seed=0)
    with pytest.raises(DataError, match="prompt 0 has 61 tokens"):
        sample(made, [[1] * 61], max_new_tokens=4, seed=0)
    assert sample(made, [], max_new_tokens=4, seed=0).completions() == []


def test_general_decoder_keeps_rows():
    """After dropping rows the general decoder goes on with the right ones."""
    made = gpt2()
    decoder = CacheDecoder(made.model)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    with torch.inference_mode():
        decoder.prefill(ids, torch.ones(3, 3, dtype=torch.bool), 5, torch.tensor([0, 1, 2]))
        decoder.keep(torch.tensor([2, 0]))
        logits = decoder.step(torch.tensor([10, 11]))
        expected = made.model(torch.tensor([[7, 8, 9, 10], [1, 2, 3, 11]])).logits[:, -1]
    assert torch.allclose(logits, expected, atol=1e-5)


def every_third(row: int, token: int, steps: dict[int, int]) -> Placed:
    """Word `row` in place of every third token, and an end after the ninth."""
    steps[row] = step = steps.get(row, 0) + 1
    return Placed(row if step % 3 == 0 else token, step % 3 != 0, step == 9, row % 2 == 0)


@pytest.mark.parametrize("make", ALL)
def test_tokens_from_elsewhere(make):
    """Where something else writes, its tokens stand there, are read by the policy, and are not the policy's."""
    made = make()
    rows = [tuple(prompt) for prompt in PROMPTS]
    uniforms = torch.rand(5, 12, generator=torch.Generator().manual_seed(3))
    steps: dict[int, int] = {}
    drawn = grow(
        made, rows, uniforms, temperature=1.0, batch_size=2, place=lambda row, token: every_third(row, token, steps)
    )
    assert drawn.lengths.tolist() == [9] * 5
    assert drawn.finished.tolist() == [True, False, True, False, True]
    assert drawn.mask.tolist() == [[True, True, False] * 3] * 5
    assert drawn.ids[:, [2, 5, 8]].tolist() == [[row] * 3 for row in range(5)]
    logps, _ = token_logps(made.model, drawn.prompts, drawn.completions(), PAD)
    assert torch.allclose(drawn.logps, logps * drawn.mask, atol=1e-4)
    assert not drawn.logps[~drawn.mask].any()


@pytest.mark.parametrize("make", [policy, gpt2])
def test_rows_end_at_their_own_room(make):
    """A long prompt may have less room than a short one; neither goes past the model's positions, both are as alone."""
    made = make()
    rows = [(22, *([5] * 57)), (22, 4), (22, *([6] * 40))]
    uniforms = torch.rand(3, 30, generator=torch.Generator().manual_seed(1))
    room = [6, 30, 24]
    never_ends = {"temperature": 1.0, "batch_size": 3, "place": lambda row, token: Placed(token, True, False, False)}
    drawn = grow(made, rows, uniforms, room=room, **never_ends)
    assert drawn.lengths.tolist() == room
    assert not drawn.finished.any()
    for row in range(3):
        alone = grow(made, rows[row : row + 1], uniforms[row : row + 1], room=[room[row]], **never_ends)
        assert alone.completions() == [drawn.completions()[row]]

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from rlback.errors import CheckpointError, DataError
from rlback.models.policy import import_policy, new_policy, token_logps
from rlback.models.tokenizers import encode_completion, encode_prompt
from rlback.settings import ModelShape
from tests.models.builders import PROMPTS, SHAPE, policy, tokenizer

COMPLETIONS = [[3, 23], [7, 7, 8, 23], [1], [2, 2, 2, 2, 2, 23], [0, 23]]


def test_new_policy_depends_on_the_seed_alone():
    """Equal seeds give equal weights, other seeds others, and the caller's random state is untouched."""
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second, third = (new_policy(SHAPE, tokenizer(), seed).model.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], third["model.embed_tokens.weight"])


def test_new_policy_ties_embeddings_in_fp32():
    """One matrix serves input and output, and all weights are fp32."""
    model = new_policy(SHAPE, tokenizer(), 0).model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    # 24 x 32 embedding, 2 layers of (4 x 32 x 32 + 3 x 32 x 48 + 2 x 32), final gain 32
    assert sum(parameter.numel() for parameter in model.parameters()) == 768 + 2 * (4096 + 4608 + 64) + 32


def test_impossible_shapes_are_refused():
    """Sizes below one and widths that heads cannot share evenly name the setting."""
    with pytest.raises(ValueError, match="greater than 0"):
        ModelShape(d_model=32, layers=0, heads=4, mlp=48, max_positions=64)
    for d_model in (30, 36):
        with pytest.raises(ValueError, match=f"d_model {d_model}"):
            ModelShape(d_model, 2, 4, 48, 64)


def test_token_logps_equal_one_row_at_a_time():
    """Padding and neighbours change nothing: each row alone, unpadded, gives the same log-probabilities."""
    made = policy()
    logps, mask = token_logps(made.model, PROMPTS, COMPLETIONS, pad_id=21)
    assert mask.sum(1).tolist() == [2, 4, 1, 6, 2]
    assert torch.equal(logps[~mask], torch.zeros(int((~mask).sum())))
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        full = made.model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        alone = [full[len(prompt) + step - 1, token].item() for step, token in enumerate(completion)]
        assert logps[row, : len(completion)].tolist() == pytest.approx(alone, abs=1e-5)


def test_pad_id_is_irrelevant():
    """Padding with the end token, or any other, gives the same numbers: masks do not look at ids."""
    made = policy()
    first, second = (token_logps(made.model, PROMPTS, COMPLETIONS, pad_id)[0] for pad_id in (21, 23))
    assert torch.equal(first, second)


def test_temperature_divides_logits():
    """At a very high temperature every token has probability 1/24; at T = 0.5 odds are squared."""
    model = policy().model
    hot, mask = token_logps(model, PROMPTS, COMPLETIONS, 21, temperature=1e7)
    assert hot[mask].tolist() == pytest.approx([-math.log(24)] * 15, abs=1e-4)
    pairs = [[PROMPTS[0]] * 2, [[3], [4]]]
    (one,), (two,) = (
        (token_logps(model, *pairs, 21, temperature=t)[0][:, 0].diff().tolist()) for t in (1.0, 0.5)
    )
    assert two == pytest.approx(2 * one, rel=1e-4)


def test_gradients_reach_every_weight():
    """A loss on the log-probabilities moves all parameters."""
    made = policy()
    token_logps(made.model, PROMPTS, COMPLETIONS, 21)[0].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.model.parameters())


def test_rows_that_do_not_fit_are_refused():
    """Empty prompts, unequal counts and rows past the model's positions name the row."""
    model = policy().model
    with pytest.raises(DataError, match="prompt 1 has no tokens"):
        token_logps(model, [[1], []], [[2], [3]], 21)
    with pytest.raises(DataError, match="2 prompts with 1"):
        token_logps(model, [[1], [1]], [[2]], 21)
    with pytest.raises(DataError, match="row 0 has 60 prompt and 5 completion"):
        token_logps(model, [[1] * 60], [[2] * 5], 21)
    assert token_logps(model, [[1]], [[]], 21)[0].shape == (1, 0)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A GPT-2 as it comes from elsewhere: dropout on, no pad token."""
    config = GPT2Config(
        vocab_size=23, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=21, eos_token_id=22
    )
    torch.manual_seed(3)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    made = tokenizer()
    saved = json.loads(made.backend_tokenizer.to_str())
    saved["added_tokens"] = [token for token in saved["added_tokens"] if token["content"] != "<pad>"]
    for number, token in enumerate(saved["added_tokens"], start=21):
        token["id"] = number
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
    special = {"bos_token": "<bos>", "eos_token": {"content": "<eos>"}, "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(special))
    return tmp_path


def test_import_adds_a_pad_token_without_moving_the_distribution(base: Path):
    """The new pad row takes less than 1/24 probability, and all else keeps its proportions."""
    imported = import_policy(base)
    original = AutoModelForCausalLM.from_pretrained(base).eval()
    ids = torch.tensor([[21, 1, 2, 3]])
    with torch.no_grad():
        new, old = imported.model(ids).logits.softmax(-1), original(ids).logits.softmax(-1)
    assert imported.tokenizer.pad_token_id == 23 == new.shape[-1] - 1
    assert (new[..., 23] <= 1 / 24).all()
    assert torch.allclose(new[..., :23] / (1 - new[..., 23:]), old, atol=1e-6)
    assert encode_prompt(imported.tokenizer, "w1 <eos>") == [21, 1, 20]
    assert encode_completion(imported.tokenizer, "w1") == [1, 22]


def test_import_turns_dropout_off(base: Path):
    """Even in training mode two passes are the same."""
    model = import_policy(base).model.train()
    first, second = (model(torch.tensor([[21, 1, 2, 3]])).logits for _ in range(2))
    assert torch.equal(first, second)
    assert model.config.attn_pdrop == 0.0


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_map": {"AutoModelForCausalLM": "evil.Model"}},
        {"_attn_implementation_internal": "someone/kernel"},
        {"_attn_implementation": "someone/kernel"},
        {"attn_implementation": "someone/kernel"},
        {"experts_implementation": "someone/kernel"},
        {"use_kernels": True},
        {"custom_pipelines": {"x": {"impl": "evil.X"}}},
        {"quantization_config": {"quant_method": "awq"}},
        {"task_specific_params": {"deep": [{"auto_map": "x"}]}},
        {"entry": "evil.py"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_import_refuses_configurations_that_name_code(base: Path, changes: dict[str, object]):
    """Keys that make a loader import code or fetch a kernel are refused at any depth, by name."""
    edit(base / "config.json", **changes)
    with pytest.raises(CheckpointError, match=r"config\.json.*(auto_map|" + next(iter(changes)) + ")"):
        import_policy(base)


def test_import_keeps_harmless_unknown_numbers(base: Path):
    """Old configurations carry numbers nobody reads; they are no reason to refuse a model."""
    edit(base / "config.json", n_ctx=32, gradient_checkpointing=False, transformers_version="4.1")
    assert import_policy(base).model.config.n_positions == 32


def test_import_refuses_other_architectures(base: Path):
    """An unknown model type and one that is no causal language model are refused."""
    for model_type in ("gpt99", "vit", None, ["llama"]):
        edit(base / "config.json", model_type=model_type)
        with pytest.raises(CheckpointError, match="model_type"):
            import_policy(base)


def test_import_never_opens_pickles(base: Path, tmp_path: Path):
    """A pickle is refused under its own name and under the name of a safetensors file; it is never run."""

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    (base / "model.safetensors").unlink()
    torch.save({"x": Bomb()}, base / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        import_policy(base)
    (base / "pytorch_model.bin").rename(base / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a safetensors file"):
        import_policy(base)
    assert not (tmp_path / "exploded").exists()


def test_import_reads_shards_but_not_paths(base: Path):
    """Weights in several files load; an index that points elsewhere, or a missing shard, is refused."""
    whole = import_policy(base)
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, inside in shards.items():
        save_file({name: tensors[name] for name in inside}, base / file)
    index = base / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {name: file for file, inside in shards.items() for name in inside}})
    )
    again = import_policy(base).model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.model.state_dict().items())
    index.write_text(json.dumps({"weight_map": {"x": "../a.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"\.\./a\.safetensors"):
        import_policy(base)
    index.write_text(json.dumps({"weight_map": {"x": "c.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"c\.safetensors is missing"):
        import_policy(base)


def test_import_names_missing_and_misshapen_tensors(base: Path):
    """Weights that do not belong to the configuration are refused, not filled in at random."""
    tensors = load_file(base / "model.safetensors")
    name = next(name for name in tensors if name.endswith("h.1.mlp.c_fc.weight"))
    save_file({key: value for key, value in tensors.items() if key != name}, base / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"h\.1\.mlp\.c_fc\.weight"):
        import_policy(base)
    save_file({**tensors, name: torch.zeros(3, 3)}, base / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"c_fc"):
        import_policy(base)

"""Campaigns that start from somebody else's model on disk (`base.model`)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlback.campaign import machine
from rlback.registry.operations import get_version
from tests.campaign.walking import advance, command, decide, entered, lines, plain, start


def tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """A small byte-level tokenizer as others make them: an end token, no pad token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(special.values()), show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator([row["prompt"] for row in plain()], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def save_gpt2(directory: Path) -> None:
    made = tokenizer(eos_token="<|endoftext|>")
    config = GPT2Config(
        vocab_size=len(made), n_positions=192, n_embd=16, n_layer=1, n_head=2, eos_token_id=made.eos_token_id,
        bos_token_id=made.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(directory)
    made.save_pretrained(directory)


def save_llama(directory: Path) -> None:
    made = tokenizer(bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    config = LlamaConfig(
        vocab_size=len(made), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=192, bos_token_id=made.bos_token_id,
        eos_token_id=made.eos_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory)
    made.save_pretrained(directory)


MODELS: dict[str, Callable[[Path], None]] = {"gpt2": save_gpt2, "llama": save_llama}
#: The base is read and not trained, so neither shape nor training is set.
READ = ("rounds=1", "base.shape=null", "base.training=null")


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A file of preferences outside the project."""
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(lines(plain()))
    return path


@pytest.mark.parametrize(("name", "relative"), [("gpt2", True), ("llama", False)])
def test_a_campaign_starts_from_a_model_on_disk(tmp_path: Path, given: Path, name: str, relative: bool):
    """It reaches its gate and is approved; base and candidate carry the digest of the files that were read."""
    directory = tmp_path / "p" / "bases" / name
    MODELS[name](directory)
    with entered(tmp_path / "p") as project:
        stored = f"bases/{name}" if relative else str(directory)
        assert "rlback label people" in start("explicit-prompt.yaml", given, *READ, f"base.model={stored}")
        command("label", "people", "--as", "ann", keys="111111")
        assert "rlback gate show people.r1" in advance()
        decide("approve", "people.r1")
        advance()
        command("deploy", "people@approved", "--as", "bob")
        read = json.loads(machine.load_campaign(project, "people").inputs)["base"]
        assert read["path"] == str(directory)
        for number in (1, 2):
            assert get_version(project.store, "people", number).lineage["inputs"]["base"] == read
        assert f"base          {directory}, sha256 {read['sha256'][:12]}" in command("audit", "deployed")
        assert "The ledger holds" in command("verify")


def test_relative_and_absolute_paths_name_the_same_model(tmp_path: Path, given: Path):
    """From wherever the command is given, a relative path starts at the project; digests and base are the same."""
    save_llama(tmp_path / "p" / "base")
    with entered(tmp_path / "p") as project:
        os.chdir(tmp_path / "p" / "base")
        start("explicit-prompt.yaml", given, *READ, "name=one", "base.model=base")
        start("explicit-prompt.yaml", given, *READ, "name=two", f"base.model={tmp_path / 'p' / 'base'}")
        one, two = (json.loads(machine.load_campaign(project, name).inputs)["base"] for name in ("one", "two"))
        assert one == two
        bases = [machine.load_recorded(project, name)[(0, "base", 1)] for name in ("one", "two")]
        assert bases[0]["digest"] == bases[1]["digest"]
        assert bases[0]["version"] == bases[1]["version"] == 1


def spoil(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_bytes(change((directory / name).read_bytes()))


def only_a_pickle(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    torch.save({"lm_head.weight": torch.zeros(2)}, directory / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (only_a_pickle, "pytorch_model.bin is a pickle, which can run code and is never opened"),
        (spoil("model.safetensors", lambda data: data[:-7]), "model.safetensors is not a whole safetensors file"),
        (spoil("model.safetensors", lambda data: b"\x80\x04" + data), "model.safetensors is not a safetensors file"),
        (spoil("config.json", lambda data: data[:-5]), "config.json is not valid JSON"),
        (lambda directory: (directory / "config.json").unlink(), "config.json is missing"),
        (lambda directory: (directory / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda directory: (directory / "model.safetensors").unlink(), "holds no model.safetensors"),
        (lambda directory: directory.rename(directory.with_name("moved")), "base does not exist"),
    ],
    ids=lambda part: part[:24].replace(" ", "-") if isinstance(part, str) else "",
)
def test_a_damaged_or_pickled_model_is_refused_before_anything_is_started(
    tmp_path: Path, given: Path, damage: Callable[[Path], object], named: str
):
    """The file is named with a remedy, by the dry run too, and no campaign is recorded."""
    save_gpt2(tmp_path / "p" / "base")
    damage(tmp_path / "p" / "base")
    with entered(tmp_path / "p") as project:
        said = start("explicit-prompt.yaml", given, *READ, "base.model=base", status=4)
        assert named in said
        assert str(tmp_path / "p" / "base") in said
        assert len(said.splitlines()) == 2  # the message, and the remedy
        assert project.store.event_count() == 0


def test_a_model_with_tensors_of_another_is_refused_by_tensor(tmp_path: Path, given: Path):
    """Weights whose layout is whole but which do not fit config.json are refused before a campaign is on record."""
    save_gpt2(tmp_path / "p" / "base")
    config = tmp_path / "p" / "base" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "n_layer": 2}))
    with entered(tmp_path / "p") as project:
        said = start("explicit-prompt.yaml", given, *READ, "base.model=base", status=4)
        assert "transformer.h.1." in said
        assert project.store.event_count() == 0


def test_a_model_changed_after_the_start_is_not_read(tmp_path: Path, given: Path):
    """One flipped byte between start and base stage: the campaign says so, and goes on once it is put back."""
    save_gpt2(tmp_path / "p" / "base")
    weights = tmp_path / "p" / "base" / "model.safetensors"
    good = weights.read_bytes()
    with entered(tmp_path / "p"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rlback.campaign.stages_labels.run_data", lambda context: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                start("explicit-prompt.yaml", given, *READ, "base.model=base")
        weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        assert "is not the model this campaign was started with" in advance(status=4)
        weights.write_bytes(good)
        assert "rlback label people" in advance()

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from rlback.errors import CheckpointError
from rlback.models import checkpoint
from rlback.models.checkpoint import load_policy, load_reward_model, save_policy, save_reward_model
from rlback.models.manifest import MANIFEST, hash_file, make_manifest, manifest_json, verify_checkpoint
from rlback.models.policy import Policy
from rlback.models.reward_model import new_reward_model
from rlback.models.tokenizers import encode_completion
from rlback.records import CheckpointKind
from rlback.settings import RewardShape
from tests.models.builders import PROMPTS, policy, sharpen, tokenizer

COMPLETIONS = [[3, 23], [7, 7, 8, 23], [1], [2, 2, 2, 2, 2, 23], [0, 23]]


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, str]:
    return tmp_path / "policy", save_policy(policy(), tmp_path / "policy")


def forge(directory: Path, kind: CheckpointKind = "policy") -> None:
    """Rewrite the manifest to match the files, as an attacker with write access would."""
    names = [entry.name for entry in verify_names(directory)]
    manifest = make_manifest(kind, [hash_file(directory / name) for name in names])
    (directory / MANIFEST).write_text(manifest_json(manifest))


def verify_names(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.name != MANIFEST]


def test_policy_round_trip(saved: tuple[Path, str], tmp_path: Path):
    """Loading gives the same weights and tokenizer; saving again gives the same digest."""
    directory, digest = saved
    loaded, original = load_policy(directory, digest), policy()
    for name, tensor in original.model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name])
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    assert encode_completion(loaded.tokenizer, "w3 <eos>") == [3, 20, 23]
    assert loaded.tokenizer.pad_token_id == 21
    assert save_policy(loaded, tmp_path / "again") == digest
    assert verify_checkpoint(tmp_path / "again", digest).kind == "policy"


def test_gpt2_round_trip(tmp_path: Path):
    """The same holds for another architecture."""
    model = GPT2LMHeadModel(GPT2Config(vocab_size=24, n_positions=16, n_embd=8, n_layer=1, n_head=2)).eval()
    sharpen(model)
    digest = save_policy(Policy(model, tokenizer()), tmp_path / "a")
    loaded = load_policy(tmp_path / "a", digest)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(loaded.model(ids).logits, model(ids).logits)
    assert save_policy(loaded, tmp_path / "b") == digest


@pytest.mark.parametrize(
    "shape",
    [
        RewardShape("last"),
        RewardShape("mean"),
        RewardShape("sum", True),
        RewardShape("sum", True, members=3, combine="uncertainty_weighted", uncertainty_weight=0.25),
        RewardShape("last", members=2, combine="worst_case", share_trunk=False),
    ],
    ids=str,
)
def test_reward_model_round_trip(tmp_path: Path, shape: RewardShape):
    """A loaded reward model gives bit-equal scores, and saving it again gives the same digest."""
    made = new_reward_model(policy(), shape, seed=1)
    torch.nn.init.normal_(made.head.weight)
    made.rescale(PROMPTS, COMPLETIONS)
    digest = save_reward_model(made, tmp_path / "a")
    loaded = load_reward_model(tmp_path / "a", digest)
    assert loaded.shape == shape
    assert torch.equal(loaded.score(PROMPTS, COMPLETIONS), made.score(PROMPTS, COMPLETIONS))
    assert torch.equal(loaded.member_scores(PROMPTS, COMPLETIONS), made.member_scores(PROMPTS, COMPLETIONS))
    assert loaded.identity() == made.identity()
    assert save_reward_model(loaded, tmp_path / "b") == digest


def test_a_reward_model_saved_before_there_were_ensembles_loads(tmp_path: Path):
    """Its file names two fields only; a single model is still written so, byte for byte, and loads as one member."""
    made = new_reward_model(policy(), RewardShape("sum", True), seed=1)
    digest = save_reward_model(made, tmp_path / "rm")
    two_fields = '{\n  "pooling": "sum",\n  "surprise": true\n}\n'
    assert (tmp_path / "rm" / "reward_model.json").read_text() == two_fields
    loaded = load_reward_model(tmp_path / "rm", digest)
    assert (loaded.shape.members, loaded.shape.combine, loaded.shape.share_trunk) == (1, "mean", True)
    assert loaded.identity() == made.identity()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"pooling": "last", "members": 0}', "does not describe a reward model"),
        ('{"pooling": "last", "trunks": 2}', "does not describe a reward model"),
        ('{"pooling": "last", "members": 3}', r"head\.weight"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(tmp_path: Path, content: str, message: str):
    """An unknown or impossible field is refused, and so are more members than there are weights for."""
    save_reward_model(new_reward_model(policy(), RewardShape("last"), seed=1), tmp_path / "rm")
    (tmp_path / "rm" / "reward_model.json").write_text(content)
    forge(tmp_path / "rm", "reward_model")
    with pytest.raises(CheckpointError, match=message):
        load_reward_model(tmp_path / "rm")


def test_digest_follows_the_weights(saved: tuple[Path, str], tmp_path: Path):
    """One weight moved by the smallest step gives another digest."""
    other = policy()
    with torch.no_grad():
        weight = other.model.model.norm.weight
        weight[0] = torch.nextafter(weight[0], torch.tensor(9.0))
    assert save_policy(other, tmp_path / "other") != saved[1]


def test_digest_is_the_same_in_another_process(saved: tuple[Path, str], tmp_path: Path):
    """Another process, hash seed and directory give the same bytes."""
    code = (
        "import sys; from tests.models.builders import policy\n"
        "from rlback.models.checkpoint import save_policy\n"
        "print(save_policy(policy(), sys.argv[1]))"
    )
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "77",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "elsewhere" / "p")],
        capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2], check=True,
    )  # fmt: skip
    assert done.stdout.strip() == saved[1]


def test_files_hold_no_paths_or_versions(saved: tuple[Path, str]):
    """Nothing in the JSON files depends on the machine or on the library's version."""
    directory, _ = saved
    text = "".join(
        (directory / name).read_text() for name in ("config.json", "tokenizer_config.json", MANIFEST)
    )
    assert "version" not in text
    assert str(directory.parent) not in text
    assert sorted(path.name for path in directory.iterdir()) == [
        "config.json", "manifest.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


def test_hugging_face_loads_a_checkpoint(saved: tuple[Path, str]):
    """A policy checkpoint is an ordinary model directory for transformers."""
    model, words = AutoModelForCausalLM.from_pretrained(saved[0]), AutoTokenizer.from_pretrained(saved[0])
    ids = torch.tensor([[22, 1, 2]])
    assert torch.allclose(model.eval()(ids).logits, policy().model(ids).logits, atol=1e-5)
    assert words("w1 w2", add_special_tokens=False)["input_ids"] == [1, 2]


def flip(directory: Path, name: str) -> None:
    raw = bytearray((directory / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (directory / name).write_bytes(raw)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "manifest.json"]
)
def test_one_flipped_bit_is_found(saved: tuple[Path, str], name: str):
    """A single changed bit in any file refuses the checkpoint and names the file."""
    flip(saved[0], name)
    with pytest.raises(CheckpointError, match=name):
        verify_checkpoint(saved[0])
    with pytest.raises(CheckpointError, match=name):
        load_policy(saved[0], saved[1])


def missing(d: Path) -> None:
    (d / "config.json").unlink()


def no_manifest(d: Path) -> None:
    (d / MANIFEST).unlink()


def truncated(d: Path) -> None:
    os.truncate(d / "model.safetensors", 1000)


def extra(d: Path) -> None:
    (d / "generation_config.json").write_text("{}")


def hidden_extra(d: Path) -> None:
    (d / ".x").touch()


def symlink(d: Path) -> None:
    (d / "config.json").rename(d.parent / "config.json")
    (d / "config.json").symlink_to(d.parent / "config.json")


def symlinked_directory(d: Path) -> None:
    d.rename(d.parent / "real")
    d.symlink_to(d.parent / "real")


def folder(d: Path) -> None:
    (d / "nested").mkdir()


def fifo(d: Path) -> None:
    (d / "config.json").unlink()
    os.mkfifo(d / "config.json")


def rewrite(d: Path, change: Callable[[dict], object]) -> None:
    document = json.loads((d / MANIFEST).read_text())
    change(document)
    (d / MANIFEST).write_text(json.dumps(document))


def outside(d: Path) -> None:
    rewrite(d, lambda m: m["files"].update({"../config.json": m["files"]["config.json"]}))


def unknown_name(d: Path) -> None:
    (d / "model.pt").write_bytes(b"x")
    rewrite(d, lambda m: m["files"].update({"model.pt": m["files"]["config.json"]}))


def fewer_files(d: Path) -> None:
    rewrite(d, lambda m: m["files"].pop("config.json"))


def other_format(d: Path) -> None:
    rewrite(d, lambda m: m.update(format="rlback-checkpoint-9"))


def other_hash(d: Path) -> None:
    rewrite(d, lambda m: m["files"]["config.json"].update(sha256="0" * 64))


def gone(d: Path) -> None:
    d.rename(d.parent / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing, r"config\.json is missing"),
        (no_manifest, r"manifest\.json is missing"),
        (truncated, r"model\.safetensors has 1000 bytes"),
        (extra, r"generation_config\.json is not in the manifest"),
        (hidden_extra, r"\.x is not in the manifest"),
        (symlink, r"config\.json is a symlink"),
        (symlinked_directory, "symlink"),
        (folder, "nested is a nested folder"),
        (fifo, r"config\.json is not a regular file"),
        (outside, r"'\.\./config\.json', which leads out"),
        (unknown_name, r"'model\.pt', which no policy checkpoint holds"),
        (fewer_files, r"config\.json is missing from the manifest"),
        (other_format, "format 'rlback-checkpoint-9'"),
        (other_hash, r"manifest\.json was altered"),
        (gone, "there is no checkpoint"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_is_refused_by_name(saved: tuple[Path, str], damage: Callable[[Path], None], message: str):
    """Each kind of damage is refused, with the file it concerns and a remedy."""
    damage(saved[0])
    with pytest.raises(CheckpointError, match=message) as caught:
        verify_checkpoint(saved[0])
    assert caught.value.remedy


@pytest.mark.parametrize(
    "content", [pickle.dumps({"a": 1}), b"", b"PK\x03\x04" + bytes(500), b"\x02" + bytes(7) + b"[]"]
)
def test_a_file_must_be_what_its_name_says(saved: tuple[Path, str], content: bytes):
    """A pickle or archive named .safetensors is refused before loading, even if the manifest fits."""
    (saved[0] / "model.safetensors").write_bytes(content)
    forge(saved[0])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a safetensors file"):
        verify_checkpoint(saved[0])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a safetensors file"):
        load_policy(saved[0])


def test_forged_manifest_needs_the_right_digest(saved: tuple[Path, str]):
    """A checkpoint consistent in itself but not the one asked for is refused."""
    directory, digest = saved
    text = (directory / "config.json").read_text()
    (directory / "config.json").write_text(text.replace("10000.0", "10001.0"))
    forge(directory)
    assert verify_checkpoint(directory).digest != digest
    with pytest.raises(CheckpointError, match=f"expected {digest}"):
        load_policy(directory, digest)


def test_forged_configuration_cannot_name_code(saved: tuple[Path, str]):
    """Our own checkpoints' configurations go through the same rules as foreign ones."""
    directory, _ = saved
    raw = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**raw, "auto_map": {"AutoConfig": "evil.C"}}))
    forge(directory)
    with pytest.raises(CheckpointError, match="auto_map"):
        load_policy(directory)


def test_repeated_keys_are_refused(saved: tuple[Path, str]):
    """JSON that says two things under one key is not accepted."""
    (saved[0] / "tokenizer_config.json").write_text('{"eos_token": "<eos>", "eos_token": "w1"}')
    forge(saved[0])
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json.*twice"):
        verify_checkpoint(saved[0])


def test_kinds_are_not_mixed_up(saved: tuple[Path, str], tmp_path: Path):
    """A policy is not loaded as a reward model, nor the other way round."""
    with pytest.raises(CheckpointError, match="holds a policy"):
        load_reward_model(saved[0])
    save_reward_model(new_reward_model(policy(), RewardShape("last"), 0), tmp_path / "rm")
    with pytest.raises(CheckpointError, match="holds a reward_model"):
        load_policy(tmp_path / "rm")


def test_saving_twice_is_one_checkpoint(saved: tuple[Path, str]):
    """Saving the same policy again is fine, another is refused, and nothing partial stays."""
    directory, digest = saved
    assert save_policy(policy(), directory) == digest
    with pytest.raises(CheckpointError, match="already holds something else"):
        save_policy(policy(seed=4), directory)
    assert [path.name for path in directory.parent.iterdir()] == ["policy"]
    verify_checkpoint(directory, digest)


@pytest.mark.parametrize("step", ["_write_file", "flush", "_move"])
def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str):
    """When the disk fails at any step there is no directory under the final name and no partial one."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, step, fail)
    with pytest.raises(OSError, match="No space"):
        save_policy(policy(), tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path):
    """A diverged policy never becomes a checkpoint."""
    made = policy()
    with torch.no_grad():
        made.model.model.norm.weight[3] = torch.nan
    with pytest.raises(CheckpointError, match=r"norm\.weight.*not finite"):
        save_policy(made, tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


def test_verifying_needs_no_torch(saved: tuple[Path, str]):
    """The manifest module works without torch, transformers or numpy being loaded."""
    code = (
        "import sys; from rlback.models.manifest import verify_checkpoint\n"
        "verify_checkpoint(sys.argv[1], sys.argv[2])\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    subprocess.run([sys.executable, "-c", code, str(saved[0]), saved[1]], env=environment, check=True)

"""Checkpoints of adapters: small, bound to their base, and data only."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from rlback.errors import CheckpointError
from rlback.models.adapters import add_adapter, merge, without_adapter
from rlback.models.checkpoint import load_policy, save_policy
from rlback.models.manifest import MANIFEST, hash_file, make_manifest, manifest_json, verify_checkpoint
from rlback.models.policy import Policy
from tests.models.builders import policy, shake
from tests.models.test_adapters import CONFIG, logps, shaken

FILES = ["adapter_config.json", "adapter_model.safetensors", "base.json"]


@pytest.fixture
def base(tmp_path: Path) -> Policy:
    """A policy that is in a checkpoint."""
    return load_policy(tmp_path / "base", save_policy(policy(), tmp_path / "base"))


@pytest.fixture
def saved(base: Policy, tmp_path: Path) -> Path:
    save_policy(shaken(base), tmp_path / "adapter")
    return tmp_path / "adapter"


def forge(directory: Path) -> None:
    """Rewrite the manifest to match the files, as an attacker with write access would."""
    manifest = make_manifest("adapter", [hash_file(directory / name) for name in FILES])
    (directory / MANIFEST).write_text(manifest_json(manifest))


def test_round_trip(base: Policy, tmp_path: Path):
    """Loaded on its base an adapter computes the same bits, and saving it again gives the same digest."""
    made = shaken(base)
    digest = save_policy(made, tmp_path / "a")
    loaded = load_policy(tmp_path / "a", digest, base)
    assert torch.equal(logps(loaded), logps(made))
    assert loaded.digest == digest
    assert loaded.adapter.config == CONFIG
    assert without_adapter(loaded) is base
    assert save_policy(loaded, tmp_path / "b") == digest
    assert verify_checkpoint(tmp_path / "b", digest).kind == "adapter"


def test_nothing_of_the_base_is_written(base: Policy, saved: Path):
    """A checkpoint of an adapter holds its 2 x 7 x 2 matrices, its settings and the base's digest."""
    assert sorted(path.name for path in saved.iterdir()) == [*FILES, MANIFEST]
    tensors = load_file(saved / "adapter_model.safetensors")
    assert len(tensors) == 28
    assert sum(t.numel() for t in tensors.values()) == 2 * (4 * 4 * (32 + 32) + 3 * 4 * (32 + 48))
    assert json.loads((saved / "base.json").read_text()) == {"digest": base.digest}


def test_peft_reads_it(saved: Path):
    """The directory is an ordinary adapter for peft, and gives the logits that ours does."""
    ours = load_policy(saved, None, lambda digest: load_policy(saved.parent / "base", digest))
    theirs = PeftModel.from_pretrained(policy().model, saved).eval()
    ids = torch.tensor([[22, 1, 2, 3]])
    assert torch.allclose(theirs(ids).logits, ours.model(ids).logits, atol=1e-5)


def test_the_base_is_asked_for_by_digest(base: Policy, saved: Path):
    """A function gets the digest the adapter names; a checkpoint that is whole does not call it."""
    asked = []

    def find(digest: str) -> Policy:
        asked.append(digest)
        return base

    assert without_adapter(load_policy(saved, None, find)) is base
    load_policy(saved.parent / "base", None, find)
    assert asked == [base.digest]


def test_two_loads_share_one_base(base: Policy, saved: Path):
    """A policy and its frozen start checkpoint, both on one base, hold the base's weights once."""
    first, second = load_policy(saved, None, base), load_policy(saved, None, base)
    frozen = [{p.data_ptr() for p in made.model.parameters()} for made in (first, second)]
    assert frozen[0] & frozen[1] == {p.data_ptr() for p in base.model.parameters()}
    before = logps(second)
    shake(first)
    assert torch.equal(logps(second), before)


def test_another_base_is_refused(saved: Path, base: Policy, tmp_path: Path):
    """Both digests are named when the base is another checkpoint's, or in none."""
    other = load_policy(tmp_path / "other", save_policy(policy(seed=4), tmp_path / "other"))
    with pytest.raises(CheckpointError, match=f"{base.digest}.*{other.digest}"):
        load_policy(saved, None, other)
    with pytest.raises(CheckpointError, match=f"{base.digest}.*{other.digest}"):
        load_policy(saved, None, lambda _: other)
    with pytest.raises(CheckpointError, match=f"{base.digest}.*in no checkpoint"):
        load_policy(saved, None, policy())
    with pytest.raises(CheckpointError, match=f"nothing without its base checkpoint {base.digest}"):
        load_policy(saved)


def test_an_adapter_is_no_base(base: Policy, saved: Path):
    """A base that has an adapter itself is refused even when its digest was made to fit."""
    stacked = add_adapter(base, CONFIG, seed=2)
    stacked.digest = base.digest
    with pytest.raises(CheckpointError, match="has an adapter already"):
        load_policy(saved, None, stacked)


def test_an_adapter_needs_a_saved_base(tmp_path: Path):
    """On a policy that is in no checkpoint an adapter cannot be saved; merged it can."""
    made = shaken(policy())
    with pytest.raises(CheckpointError, match="base is in no checkpoint"):
        save_policy(made, tmp_path / "a")
    digest = save_policy(merge(made), tmp_path / "b")
    assert (logps(load_policy(tmp_path / "b", digest)) - logps(made)).abs().max() < 1e-4
    assert not (tmp_path / "a").exists()


def test_digests_say_what_is_in_a_checkpoint(base: Policy, saved: Path):
    """Loaded policies carry their checkpoint's digest; new, adapted and merged ones have none."""
    assert base.digest == verify_checkpoint(saved.parent / "base").digest
    made = shaken(base)
    assert [p.digest for p in (policy(), made, merge(made))] == [None] * 3


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_one_flipped_bit_is_found(base: Policy, saved: Path, name: str):
    """A single changed bit in any file refuses the adapter and names the file."""
    raw = bytearray((saved / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (saved / name).write_bytes(raw)
    with pytest.raises(CheckpointError, match=name):
        load_policy(saved, None, base)


def change(saved: Path, **changes: object) -> None:
    path = saved / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    forge(saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_mapping", {"base_model_class": "Evil", "parent_library": "evil"}),
        ("base_model_name_or_path", "someone/model"),
        ("base_model_name_or_path", None),
        ("revision", "main"),
        ("modules_to_save", ["lm_head"]),
        ("megatron_core", "evil.core"),
        ("target_parameters", ["x"]),
        ("use_dora", True),
        ("rank_pattern", {"q_proj": 1}),
    ],
)
def test_settings_are_data(base: Policy, saved: Path, key: str, value: object):
    """A key that would make peft import, fetch or compute something else is refused by name, whatever its value."""
    change(saved, **{key: value})
    with pytest.raises(CheckpointError, match=rf"adapter_config\.json: key '{key}' is not one of"):
        load_policy(saved, None, base)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("peft_type", "XLORA", "peft_type is 'XLORA'"),
        ("task_type", "SEQ_CLS", "task_type is 'SEQ_CLS'"),
        ("bias", "all", "bias is 'all'"),
        ("lora_dropout", 0.5, "lora_dropout is 0.5"),
        ("target_modules", ".*", "target_modules is not valid"),
        ("target_modules", ["q_proj", "(a+)+"], "target_modules is not valid"),
        ("target_modules", [], "targets"),
        ("target_modules", ["lm_head"], "'lm_head' names no linear layer"),
        ("target_modules", ["q_proj"], "mlp.down_proj.lora_A.weight' is not one of this adapter"),
        ("r", True, "r, lora_alpha or"),
        ("r", 4.0, "r, lora_alpha or"),
        ("r", 0, "rank"),
        ("r", 5, r"torch.float32 \(4, 32\), expected torch.float32 \(5, 32\)"),
        ("lora_alpha", "8", "r, lora_alpha or"),
        ("lora_alpha", -8.0, "alpha"),
    ],
)
def test_values_that_are_not_ours_are_refused(base: Policy, saved: Path, key: str, value: object, message: str):
    """Other methods, dropout, patterns for names, numbers of the wrong kind and settings unlike the weights are refused."""
    change(saved, **{key: value})
    with pytest.raises(CheckpointError, match=rf"adapter_(config\.json|model\.safetensors).*{message}"):
        load_policy(saved, None, base)


def test_missing_settings_are_named(base: Policy, saved: Path):
    """A configuration without its rank is refused, not completed."""
    path = saved / "adapter_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "r"}))
    forge(saved)
    with pytest.raises(CheckpointError, match="'r' is missing"):
        load_policy(saved, None, base)


def test_weights_must_be_those_of_the_adapter(base: Policy, saved: Path):
    """A missing, an additional, a misshapen tensor and a pickle are each refused."""
    path = saved / "adapter_model.safetensors"
    tensors = load_file(path)
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    broken = [
        ({k: v for k, v in tensors.items() if k != name}, f"'{name}' is missing"),
        ({**tensors, "base_model.model.lm_head.weight": torch.zeros(2)}, r"lm_head.weight' is not one"),
        ({**tensors, name: torch.zeros(3, 3)}, rf"'{name}' is torch.float32 \(3, 3\)"),
        ({**tensors, name: tensors[name].half()}, f"'{name}' is torch.float16"),
    ]
    for content, message in broken:
        save_file(content, path)
        forge(saved)
        with pytest.raises(CheckpointError, match=message):
            load_policy(saved, None, base)
    path.write_bytes(pickle.dumps(tensors))
    forge(saved)
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        load_policy(saved, None, base)


@pytest.mark.parametrize("content", [{}, {"digest": "../base"}, {"digest": None}, {"digest": "a" * 64, "path": "x"}])
def test_the_base_must_be_named(base: Policy, saved: Path, content: dict[str, object]):
    """A base that is not a digest and nothing else is refused before anything is looked for."""
    (saved / "base.json").write_text(json.dumps(content))
    forge(saved)
    with pytest.raises(CheckpointError, match=r"base\.json names no base"):
        load_policy(saved, None, base)


def test_weights_that_are_not_finite_are_not_saved(base: Policy, tmp_path: Path):
    """A diverged adapter never becomes a checkpoint."""
    made = shaken(base)
    with torch.no_grad():
        next(p for p in made.model.parameters() if p.requires_grad)[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match=r"lora_A.*not finite"):
        save_policy(made, tmp_path / "a")
    assert not (tmp_path / "a").exists()

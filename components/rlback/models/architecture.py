"""From files on disk to a causal language model, with nothing in the files ever run or fetched.

`config.json` is data from outside. Three rules keep it data: keys that make transformers import code or
fetch kernels are refused wherever they stand; the architecture must be one that transformers itself ships; a
key that this architecture does not know may hold numbers only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from rlback.errors import CheckpointError
from rlback.models.chat_template import read_template
from rlback.models.manifest import check_safetensors, read_json_object

# Refused at any depth: each makes a loader import Python, choose a kernel from a hub, or load other weights.
_CODE_KEYS = re.compile(
    r"auto_map|custom_\w+|trust_remote_code|quantization_config|\w*kernel\w*|\w+_implementation|"
    r"_\w*implementation\w*|fusion_config|adapter\w*|base_model_name_or_path|gguf_file|code_\w+"
)
# Bookkeeping that says nothing about the network; left out.
_NOTES = {
    "_name_or_path",
    "_commit_hash",
    "transformers_version",
    "name_or_path",
    "architectures",
    "model_type",
}
# Read by many configurations although not declared by them.
_LEGACY = {"torch_dtype", "dtype", "rope_scaling", "rope_theta"}
_SPECIAL = ("pad_token", "bos_token", "eos_token", "unk_token")


def read_config(path: Path) -> PreTrainedConfig:
    """The model configuration in a `config.json`, cleaned, with all dropout at 0.

    Raises CheckpointError naming the file and the key.
    """
    return config_from(read_json_object(path), str(path))


def config_from(raw: Mapping[str, Any], place: str) -> PreTrainedConfig:
    """The configuration that `raw` describes, by the rules at the top of this module."""
    _refuse_code(raw, place)
    model_type = raw.get("model_type")
    ours = isinstance(model_type, str) and model_type in CONFIG_MAPPING
    if not ours or CONFIG_MAPPING[model_type] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise CheckpointError(
            f"{place}: model_type {model_type!r} is no causal language model of the installed transformers",
            remedy="use an architecture that transformers ships (llama, gpt2, qwen2, mistral, ...)",
        )
    kind = CONFIG_MAPPING[model_type]
    known = set(kind().to_dict()) | set(kind.attribute_map) | _LEGACY
    kept = {}
    for key, value in raw.items():
        if key in _NOTES:
            continue
        if key.startswith("_") or (key not in known and not _numbers_only(value)):
            raise CheckpointError(
                f"{place}: key {key!r} is not one of a {model_type} configuration",
                remedy=f"remove {key!r} if the model does not need it",
            )
        kept[key] = 0.0 if _is_dropout(key, value) else value
    try:
        return kind.from_dict(kept)
    except Exception as error:  # validation errors of many kinds, raised by the configuration class
        raise CheckpointError(f"{place}: {error}", remedy="correct the configuration") from error


def _refuse_code(value: Any, place: str) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if _CODE_KEYS.fullmatch(key) and inner is not None:
                raise CheckpointError(
                    f"{place}: key {key!r} can make a loader run or fetch code; it is never loaded",
                    remedy=f"remove {key!r}, or save the model in plain transformers format first",
                )
            _refuse_code(inner, place)
    elif isinstance(value, list):
        for inner in value:
            _refuse_code(inner, place)


def _numbers_only(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_numbers_only(inner) for inner in value.values())
    if isinstance(value, list):
        return all(_numbers_only(inner) for inner in value)
    return value is None or isinstance(value, bool | int | float)


def _is_dropout(key: str, value: Any) -> bool:
    return ("drop" in key) and isinstance(value, int | float) and not isinstance(value, bool)


def build_model(config: PreTrainedConfig, place: str) -> PreTrainedModel:
    """A causal LM of this configuration in fp32, without dropout; its weights are yet to be loaded."""
    try:
        # Initial weights are overwritten; drawing them must not move the caller's random state.
        with torch.random.fork_rng(devices=[]):
            model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    except Exception as error:  # a configuration may contradict itself in as many ways as there are models
        raise CheckpointError(
            f"{place}: no model can be built from it: {error}", remedy="correct it"
        ) from error
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.float().eval()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file. Raises CheckpointError when it is not one."""
    check_safetensors(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: {error}", remedy="save the weights again as safetensors") from error


def fill(module: nn.Module, tensors: Mapping[str, Tensor], tied: frozenset[str], place: str) -> None:
    """Load `tensors` into `module`; only names in `tied` (copies of another weight) may be absent."""
    try:
        missing, unexpected = module.load_state_dict(dict(tensors), strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{place}: {error}", remedy="weights and config.json must match") from error
    absent = sorted(set(missing) - tied)
    if absent or unexpected:
        name = (absent or unexpected)[0]
        raise CheckpointError(
            f"{place}: tensor {name!r} is {'missing' if absent else 'not one of this model'}",
            remedy="weights and config.json must come from the same model",
        )


def tied_names(module: nn.Module, prefix: str = "") -> frozenset[str]:
    """State names that are copies of another weight (an output matrix tied to the input embedding)."""
    return frozenset(prefix + name for name in (getattr(module, "all_tied_weights_keys", None) or {}))


def read_foreign_model(directory: Path) -> PreTrainedModel:
    """The causal LM in a Hugging Face format directory, fp32, weights from safetensors files only."""
    config = read_config(directory / "config.json")
    tensors: dict[str, Tensor] = {}
    for path in weight_files(directory):
        tensors.update(read_tensors(path))
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with torch.random.fork_rng(devices=[]), _quiet():
        # Through transformers and not load_state_dict, for its renaming of old weight names. Without a path
        # it reads no further file.
        model, report = kind.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported, and refused below by name
        )
    broken = sorted([*report["missing_keys"], *(str(key[0]) for key in report["mismatched_keys"])])
    if broken:
        raise CheckpointError(
            f"{directory}: tensor {broken[0]!r} is missing or has another shape than config.json says",
            remedy="weights and config.json must come from the same model",
        )
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar and no loading report from transformers: what they say is raised as an error here."""
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def weight_files(directory: Path) -> list[Path]:
    """The files that hold a foreign model's weights. Raises CheckpointError where there are none that may be opened."""
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        names = sorted(set(map(str, read_json_object(index).get("weight_map", {}).values())))
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise CheckpointError(
                    f"{index}: {name!r} is not a plain .safetensors file name", remedy="correct it"
                )
            if not (directory / name).is_file():
                raise CheckpointError(f"{directory}: {name} is missing", remedy="download it again")
        if names:
            return [directory / name for name in names]
    raise CheckpointError(
        f"{directory} holds no model.safetensors; other weight formats can run code and are never opened",
        remedy="save the model with save_pretrained of a current transformers",
    )


def read_foreign_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in `tokenizer.json`, special tokens from `tokenizer_config.json` and its neighbours.

    Of the latter only the names of pad, start, end and unknown token are read, and the chat template as text.
    """
    tokens: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            raw = read_json_object(directory / name)
            _refuse_code({"auto_map": raw.get("auto_map")}, str(directory / name))
            for token in _SPECIAL:
                value = raw.get(token)
                content = value.get("content") if isinstance(value, dict) else value
                if isinstance(content, str):
                    tokens[token] = content
    return tokenizer_from(directory / "tokenizer.json", tokens)


def tokenizer_from(path: Path, tokens: Mapping[str, str]) -> PreTrainedTokenizerFast:
    """A tokenizer from a `tokenizer.json` and the names of its special tokens, all of which it must know.

    It gets the chat template that lies beside the file, if there is one.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing", remedy="save the tokenizer in the fast format")
    try:
        backend = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(f"{path}: {error}", remedy="save the tokenizer again") from error
    for name, token in tokens.items():
        if backend.token_to_id(token) is None:
            raise CheckpointError(
                f"{path}: {name} {token!r} is not in the vocabulary", remedy="correct one of the two"
            )
    template = read_template(path.parent)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, chat_template=template, **tokens
    )


def config_json(config: PreTrainedConfig) -> str:
    """The text of `config.json` for a checkpoint: no library version, no paths, same bytes every time."""
    generic, default = PreTrainedConfig().to_dict(), type(config)().to_dict()
    raw = {
        key: 0.0 if _is_dropout(key, value) else value
        for key, value in config.to_dict().items()
        # The library's general settings, at their defaults, say nothing about this network and change with
        # its version.
        if not key.startswith("_") and not (key in generic and value == generic[key] == default.get(key))
    }
    for key in ("transformers_version", "name_or_path", "use_cache"):
        raw.pop(key, None)
    raw["model_type"], raw["dtype"] = config.model_type, "float32"
    raw["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__]
    return json.dumps(raw, indent=2, sort_keys=True, allow_nan=False) + "\n"


def tokenizer_json(tokenizer: PreTrainedTokenizerFast) -> str:
    """The text of `tokenizer_config.json`: the special tokens' names and the chat template, nothing else."""
    raw = {name: getattr(tokenizer, name) for name in _SPECIAL if getattr(tokenizer, name) is not None}
    if tokenizer.chat_template is not None:
        raw["chat_template"] = tokenizer.chat_template
    return json.dumps({**raw, "tokenizer_class": "PreTrainedTokenizerFast"}, indent=2, sort_keys=True) + "\n"

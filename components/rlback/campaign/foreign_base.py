"""A base policy that somebody else trained: what lies at `base.model`, looked at before anything is started.

Nothing is loaded here and nothing of the files is run: they must be there, have the layout of safetensors, and
are named by a digest, which every lineage of the campaign carries.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from rlback.errors import CheckpointError
from rlback.models.manifest import check_safetensors, hash_file, read_json_object
from rlback.records import digest_of

#: Everything that is ever read from such a directory, beside its *.safetensors.
_READ = (
    "config.json", "model.safetensors.index.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
)  # fmt: skip
_NEEDED = ("config.json", "tokenizer.json")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SAVE = "save model and tokenizer again with `save_pretrained` of a current transformers"


def describe_base(root: Path, stored: str) -> dict[str, str]:
    """Path and digest of the directory at `base.model`; a relative path starts at the project's directory `root`.

    The digest is SHA-256 over name, size and SHA-256 of every file that a campaign would read.

    Raises:
        CheckpointError: names the file that is missing, damaged or never opened.
    """
    directory = (root / stored).resolve()
    if not directory.is_dir():
        what = "is not a directory" if directory.exists() else "does not exist"
        raise CheckpointError(
            f"base.model: {directory} {what}",
            remedy=f"name a directory with a model in Hugging Face format, from {root} or absolute; nothing is downloaded",
        )
    for name in _NEEDED:
        if not (directory / name).is_file():
            raise CheckpointError(f"base.model: {directory / name} is missing", remedy=_SAVE)
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        _refuse_other_weights(directory)
    present = [directory / name for name in _READ if (directory / name).is_file()]
    try:
        for path in present:
            read_json_object(path)
        for path in weights:
            check_safetensors(path)
    except CheckpointError as error:
        raise CheckpointError(f"base.model: {error.message}", remedy=_SAVE) from None
    entries = [hash_file(path) for path in sorted([*present, *weights])]
    return {"path": str(directory), "sha256": digest_of([[e.name, e.size, e.sha256] for e in entries])}


def require_unchanged(root: Path, given: Mapping[str, str]) -> None:
    """Checks that a base is still the one a campaign was started with.

    Raises:
        CheckpointError: a file was changed, added or lost.
    """
    if describe_base(root, given["path"])["sha256"] != given["sha256"]:
        raise CheckpointError(
            f"{given['path']} is not the model this campaign was started with (its digest was {given['sha256'][:16]}…)",
            remedy="put its files back, or start a new campaign on the new one",
        )


def _refuse_other_weights(directory: Path) -> NoReturn:
    pickled = sorted(path.name for path in directory.iterdir() if path.suffix in _PICKLED)
    if pickled:
        raise CheckpointError(
            f"base.model: {directory / pickled[0]} is a pickle, which can run code and is never opened; "
            "there is no model.safetensors beside it",
            remedy=_SAVE,
        )
    raise CheckpointError(f"base.model: {directory} holds no model.safetensors", remedy=_SAVE)

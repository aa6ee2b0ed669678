"""What a campaign to be started comes to: its configuration, inputs and plan, checked before anything is recorded.

The command line and the console prepare a campaign with these functions and record it with `machine.start`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlback.campaign.plan import stages_of_round
from rlback.campaign.sources import VOCABULARY_BYTES
from rlback.config import CampaignConfig, parse_override, read_config
from rlback.errors import ConfigError
from rlback.project import Project

#: The files a campaign may be given, by the name of their option.
INPUTS = ("pairs", "votes", "text")
MOST_CHOICES = 200
SEED_DIGITS = 12
STUDIES = "studies"  # their files are no campaigns'


@dataclass(frozen=True)
class Choice:
    """A file under configs/ by its path there: the campaign it describes, or what is wrong with it.

    `about` is the comment at its head.
    """

    file: str
    about: str
    config: CampaignConfig | None
    error: str = ""
    remedy: str | None = None


def choices(project: Project) -> list[Choice]:
    """The campaigns' configuration files of a project, in order of their names; at most `MOST_CHOICES`."""
    found = []
    for path in sorted(path for kind in ("*.yaml", "*.yml") for path in project.configs.rglob(kind)):
        file = path.relative_to(project.configs).as_posix()
        if file.startswith(f"{STUDIES}/"):
            continue
        try:
            config = read_config(config_path(project, file))
            found.append(Choice(file, _head(path), config))
        except ConfigError as error:
            found.append(Choice(file, "", None, error.message.replace(f"{project.configs.resolve()}/", "configs/"), error.remedy))
        if len(found) == MOST_CHOICES:
            break
    return found


def config_path(project: Project, file: str) -> Path:
    """The file of that path under configs/, links followed.

    Raises:
        ConfigError: there is none, or it lies elsewhere.
    """
    home = project.configs.resolve()
    try:
        path = (home / file).resolve()
        inside = path.is_relative_to(home) and path.is_file()
    except (OSError, ValueError):  # a name too long, or no name at all
        inside = False
    if not inside:
        raise ConfigError(f"there is no configuration {file[:80]!r} under configs/", remedy="choose one of those listed")
    return path


def _head(path: Path) -> str:
    """The lines of comment at the head of a file, without their marks."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("#").strip())
    return "\n".join(lines)


def overrides_of(settings: list[str], seed: str | int | None) -> dict[str, Any]:
    """Dotted key -> value of `--set key=value` and `--seed`, which wins over a `seed=` among them.

    Raises:
        ConfigError: see `parse_override`, or the seed is no whole number from 0.
    """
    found = dict(parse_override(text) for text in settings)
    if seed is not None:
        text = str(seed)
        if not text.isdecimal() or not text.isascii() or len(text) > SEED_DIGITS:
            raise ConfigError(f"the seed {text[:30]!r} is not a whole number from 0", remedy="take one like 7")
        found["seed"] = int(text)
    return found


def needed(config: CampaignConfig) -> dict[str, bool]:
    """Name of each input that the configuration can use -> whether it cannot do without."""
    if config.source.world is not None:
        return {}
    own = config.base.model is None
    return {"pairs": True, "votes": False, **({"text": config.base.text_share == 1} if own else {})}


def check_inputs(config: CampaignConfig, given: Mapping[str, Path]) -> dict[str, Path]:
    """The files that were named; a directory stands for the file in it that the configuration names.

    Raises:
        ConfigError: one is no file, or the configuration takes none.
    """
    found = {}
    defaults = {"pairs": config.source.pairs_file, "text": config.source.text_file}
    for key, path in given.items():
        if any(len(part.encode()) > 255 for part in path.parts):
            raise ConfigError(f"--{key}: {str(path)[:60]}… is too long for a file name")
        if path.is_dir() and key in defaults:
            path = path / defaults[key]
        if not path.is_file():
            kind = "a directory" if path.is_dir() else "not a regular file"
            what = f"{path} is {kind}" if path.exists() else f"there is no file {path}"
            raise ConfigError(f"--{key}: {what}", remedy="name the file itself")
        if config.source.world is not None:
            raise ConfigError(f"--{key} is given, but the configuration runs in the world {config.source.world}")
        found[key] = path
    return found


def count_pairs(config: CampaignConfig, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """Reads what was given once, so that a bad row is named before a campaign is on record; what there is of it.

    Of the text only the beginning is read.

    Raises:
        DataError: names file and line.
    """
    from rlback.campaign.sources import part_pairs
    from rlback.data.text import read_text

    if "text" in inputs:
        next(read_text(inputs["text"]))
    if "pairs" not in inputs:
        return {}
    parted = part_pairs(config, inputs)
    return {"format": parted.format, **parted.counts}


def text_of(config: CampaignConfig, inputs: Mapping[str, Path]) -> dict[str, Any] | None:
    """The plain text that is given: its `path`, `bytes` on disk, how many bytes of it are read `at_most` once unpacked, and
    which `share` of the base policy's training windows comes from it. None without one."""
    if "text" not in inputs:
        return None
    base, size = config.base, inputs["text"].stat().st_size
    most = 0 if base.model is not None else max(VOCABULARY_BYTES, base.text_bytes) if base.text_share else VOCABULARY_BYTES
    share = 0.0 if base.model is not None else base.text_share
    return {"path": str(inputs["text"]), "bytes": size, "at_most": most, "share": share}


def _text_line(text: Mapping[str, Any]) -> str:
    said = f"{text['path']}: plain text, {text['bytes']:,} bytes on disk"
    if not text["at_most"]:
        return f"{said}; it is not read, since the base policy is the one at base.model."
    much = f"at most its first {text['at_most']:,} bytes, unpacked, are read"
    if not text["share"]:
        return f"{said}; {much}, for the vocabulary alone (base.text_share is 0)."
    share = f"for {text['share']:.0%} of what the base policy is trained on"
    return f"{said}; {much}, {share} (base.text_bytes, base.text_share)."


def plan_of(config: CampaignConfig) -> dict[str, Any]:
    """The stages before the first round and of each one, and how many rounds there are."""
    return {"before": stages_of_round(config, 0), "each_round": stages_of_round(config, 1), "rounds": config.rounds}


def plan_lines(shown: str, config: CampaignConfig, inputs: Mapping[str, Path], counts: Mapping[str, Any]) -> list[str]:
    """What `rlback run --dry-run` prints; `shown` is the configuration's name."""
    from rlback.campaign.remarks import opening_lines

    plan = plan_of(config)
    lines = [f"{shown} is valid: policy {config.policy}, {config.rounds} rounds, seed {config.seed}."]
    if counts:
        lines.append(f"{inputs['pairs']}: {counts['pairs']} preference pairs ({counts['format']}), {counts['groups']} groups.")
        lines += opening_lines(dict(counts))
    if text := text_of(config, inputs):
        lines.append(_text_line(text))
    lines.append(f"first      {' → '.join(plan['before'])}")
    lines.append(f"each round {' → '.join(plan['each_round'])}")
    return [*lines, "Nothing was started or written."]


def command_of(file: str, inputs: Mapping[str, Path], settings: list[str], seed: str | None, name: str | None) -> str:
    """The command line that starts the same campaign, from the project's directory."""
    parts = ["rlback", "run", f"configs/{file}"]
    for key, path in inputs.items():
        parts += [f"--{key}", str(path)]
    parts += [word for text in settings for word in ("--set", text)]
    parts += ["--seed", seed] if seed else []
    parts += ["--name", name] if name else []
    return shlex.join(parts)

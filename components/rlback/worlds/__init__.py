"""Controlled worlds with a known gold reward, and simulated annotators."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING

from rlback.errors import ConfigError

if TYPE_CHECKING:
    from rlback.worlds.protocol import World

# name -> (module, object); modules are imported when a world is asked for.
_WORLDS = {
    "visits": ("rlback.worlds.visits_world", "VISITS"),
    "segments": ("rlback.worlds.segments_world", "SEGMENTS"),
}


#: All of them: their data lie side by side under one `data.dvc`, so that no campaign changes what another one needs.
WORLDS = tuple(_WORLDS)


def load_world(name: str) -> World:
    """The world of that name. Raises ConfigError naming the nearest valid name."""
    if name not in _WORLDS:
        nearest = difflib.get_close_matches(name, _WORLDS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"there is no world {name!r}", remedy=f"use `{nearest}`")
    module, attribute = _WORLDS[name]
    return getattr(importlib.import_module(module), attribute)

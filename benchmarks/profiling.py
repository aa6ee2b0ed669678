"""Where our step's time goes: seconds by phase, beside each phase's floor, and the operators that took most.

Processor time, so that a profile can be read from a busy machine too.
Functions of the product are wrapped while a profile is taken; the product itself knows nothing of it. A name that
is not there (any more) is listed under `missing`, so that a profile never hides a phase silently.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

#: (module, attribute, phase). A phase's time leaves out that of phases inside it.
Wrapped = tuple[str, str, str]

_UPDATE: tuple[Wrapped, ...] = (
    ("torch", "Tensor.backward", "update: backward"),
    ("rlback.models.policy", "pack", "packing"),
    ("rlback.models.reward_model", "pack", "packing"),
)
PHASES: dict[str, tuple[Wrapped, ...]] = {
    "rloo": (
        ("rlback.models.sampler", "_sample_batch", "sample: bookkeeping"),
        ("rlback.models.sampler", "LlamaDecoder.__init__", "sample: arranging weights"),
        ("rlback.models.sampler", "LlamaDecoder.prefill", "sample: prompts"),
        ("rlback.models.sampler", "LlamaDecoder.step", "sample: decoding"),
        ("rlback.models.sampler", "_draw", "sample: drawing"),
        ("rlback.models.reward_model", "RewardModel.score", "score"),
        ("rlback.training.rollout", "_reference_logps", "reference"),
        ("rlback.training.rollout", "_policy_logps", "update: forward"),
        ("rlback.training.on_policy", "signals", "advantages"),
        ("rlback.training.objectives", "token_logps", "update: forward"),
        ("rlback.training.on_policy", "apply_update", "update: optimiser"),
        *_UPDATE,
    ),
    "reward": (
        ("rlback.models.reward_model", "RewardModel.forward", "update: forward"),
        ("rlback.training.reward", "apply_update", "update: optimiser"),
        *_UPDATE,
    ),
    "dpo": (
        ("rlback.training.dpo", "token_logps", "update: forward"),
        ("rlback.training.dpo", "apply_update", "update: optimiser"),
        *_UPDATE,
    ),
    "generate": (
        ("rlback.models.sampler", "LlamaDecoder.__init__", "sample: arranging weights"),
        ("rlback.models.sampler", "LlamaDecoder.prefill", "sample: prompts"),
        ("rlback.models.sampler", "LlamaDecoder.step", "sample: decoding"),
        ("rlback.models.sampler", "_draw", "sample: drawing"),
    ),
}


class Stopwatch:
    """Seconds and calls by phase. A phase that runs inside another is taken off the outer one.

    `first`: when a phase began for the first time, in seconds from the making of this clock.
    """

    def __init__(self, now: Callable[[], float] = time.process_time) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self.first: dict[str, float] = {}
        self._now = now
        self._running: list[str] = []
        self._since = self._made = now()

    def clear(self) -> None:
        """Forget what was measured; phases that are running go on."""
        self.seconds.clear()
        self.calls.clear()
        self._since = self._now()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time of the block under `name`."""
        self._book()
        self.calls[name] += 1
        self.first.setdefault(name, self._since - self._made)
        self._running.append(name)
        try:
            yield
        finally:
            self._book()
            self._running.pop()

    def _book(self) -> None:
        now = self._now()
        self.seconds[self._running[-1] if self._running else "rest"] += now - self._since
        self._since = now

    def stop(self) -> None:
        """Books what has passed since the last change of phase."""
        self._book()


@contextmanager
def wrapped(names: Sequence[Wrapped], watch: Stopwatch) -> Iterator[list[str]]:
    """Has `watch` time the named functions while the block runs; yields the names that are not there."""
    held: list[tuple[Any, str, Any]] = []
    missing: list[str] = []
    for module, path, phase in names:
        *owners, attribute = path.split(".")
        try:
            owner: Any = importlib.import_module(module)
            for name in owners:
                owner = getattr(owner, name)
            original = getattr(owner, attribute)
        except (ImportError, AttributeError):
            missing.append(f"{module}.{path}")
            continue
        setattr(owner, attribute, _timed(original, watch, phase))
        held.append((owner, attribute, original))
    try:
        yield missing
    finally:
        for owner, attribute, original in reversed(held):
            setattr(owner, attribute, original)


@contextmanager
def wrapped_when_imported(names: Sequence[Wrapped], watch: Stopwatch) -> Iterator[list[str]]:
    """As `wrapped`, but imports nothing: a function is wrapped once the block itself imports its module.

    Before any other module takes the function from there, so every caller is timed. The list of what is not there is
    filled when the block is over; a module that was never imported is on it.
    """
    held: list[tuple[Any, str, Any]] = []
    missing: list[str] = []
    finder = _Finder(names, watch, held)
    sys.meta_path.insert(0, finder)
    try:
        yield missing
    finally:
        sys.meta_path.remove(finder)
        for owner, attribute, original in reversed(held):
            setattr(owner, attribute, original)
        missing += finder.left


class _Finder:
    """Passes imports on to the other finders, and wraps what has been looked for when a module is there."""

    def __init__(self, names: Sequence[Wrapped], watch: Stopwatch, held: list[tuple[Any, str, Any]]) -> None:
        self._names, self._watch, self._held = names, watch, held
        self.left = [f"{module}.{path}" for module, path, _ in names]
        for module in {module for module, _, _ in names} & sys.modules.keys():
            self.wrap(sys.modules[module])

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """What the other finders find."""
        if name not in {module for module, _, _ in self._names}:
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((found for found in others if found is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.wrap)
        return spec

    def wrap(self, module: Any) -> None:
        """Wraps what is looked for in a module that has just been imported."""
        for name, path, phase in self._names:
            if name != module.__name__:
                continue
            *owners, attribute = path.split(".")
            owner = module
            for each in owners:
                owner = getattr(owner, each, None)
            original = getattr(owner, attribute, None)
            if original is not None:
                setattr(owner, attribute, _timed(original, self._watch, phase))
                self._held.append((owner, attribute, original))
                self.left.remove(f"{name}.{path}")


class _Loader:
    """A module's own loader, and a word when the module is there; one loader may serve many modules, so it is left as it is."""

    def __init__(self, loader: Any, loaded: Callable[[Any], None]) -> None:
        self._loader, self._loaded = loader, loaded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: Any) -> None:
        self._loader.exec_module(module)
        self._loaded(module)


def _timed(function: Callable[..., Any], watch: Stopwatch, phase: str) -> Callable[..., Any]:
    @wraps(function)
    def timed(*args: Any, **named: Any) -> Any:
        with watch.phase(phase):
            return function(*args, **named)

    return timed


class Operators:
    """The torch operators of one step, by their own time."""

    def __init__(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        self._profile = profile(activities=[ProfilerActivity.CPU])

    def start(self) -> None:
        """From here on."""
        self._profile.start()

    def stop(self, most: int = 14) -> list[dict[str, Any]]:
        """Ends, and gives the `most` expensive: name, milliseconds of its own, calls."""
        self._profile.stop()
        events = sorted(self._profile.key_averages(), key=lambda event: -event.self_cpu_time_total)
        return [{"name": e.key, "ms": round(e.self_cpu_time_total / 1e3, 2), "calls": e.count} for e in events[:most]]


def text(name: str, steps: int, found: dict[str, Any], floors: dict[str, dict[str, float]]) -> str:
    """A profile for people: phases in milliseconds a step, the floors of each group of phases by library, operators."""
    each = {phase: 1e3 * seconds / steps for phase, seconds in found["seconds"].items()}
    total = sum(each.values())
    lines = [f"{name}: {total:.1f} ms of processor time a step ({steps} steps)"]
    for phase, ms in sorted(each.items(), key=lambda item: -item[1]):
        lines.append(f"  {phase:<32} {ms:9.2f} ms  {ms / total:6.1%}  {found['calls'].get(phase, 0) / steps:7.1f} calls")
    for library, groups in floors.items():
        for group, floor in groups.items():
            spent = sum(ms for phase, ms in each.items() if phase.split(":")[0] == group)
            reached = f"  {1e3 * floor / spent:4.0%} reached" if spent else ""
            lines.append(f"  {f'floor of {group} by {library}':<32} {1e3 * floor:9.2f} ms{reached}")
    lines += [f"  not found, so not timed: {name}" for name in found["missing"]]
    lines.append("  operators of one step, own wall time (the profiler itself slows small ones down):")
    lines += [f"    {op['name']:<46} {op['ms']:8.2f} ms {op['calls']:6d} calls" for op in found["operators"]]
    return "\n".join(lines)

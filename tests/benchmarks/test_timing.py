"""Which steps are timed, settings by name, and how a profile shares out time."""

from __future__ import annotations

import io
import json
import sys
import types

import pytest

from benchmarks.clock import Clock, TurnsOver
from benchmarks.profiling import Stopwatch, wrapped
from benchmarks.shapes import Plan, Variant, variants


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_warm_up_and_settling_steps_are_not_timed(capsys: pytest.CaptureFixture[str]) -> None:
    """Of 2 + 2 * (1 + 3) steps, the plan's total, three are timed in each of two blocks."""
    plan = Plan(warm=2, blocks=2, settle=1, steps=3)
    clock = Clock(plan, turns=False)
    for _ in range(plan.total):
        clock.tick()
    ready, *blocks = lines(capsys.readouterr().out)
    assert ready == {"ready": True}
    assert [(b["block"], len(b["seconds"]), len(b["cpu"])) for b in blocks] == [(0, 3, 3), (1, 3, 3)]


def test_what_comes_before_the_first_step_is_told_from_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the first step over after 9 s and steps of 2 s, the 7 s more went before the first step."""
    now = iter([0.0, 0.0, 9.0, 9.0, 11.0, 11.0, 13.0, 13.0])
    monkeypatch.setattr("benchmarks.clock.time.perf_counter", lambda: next(now))
    clock = Clock(Plan(warm=1, blocks=2, settle=0, steps=1), turns=False)
    clock.start()
    for _ in range(3):
        clock.tick()
    assert clock.before()[0] == 7.0


def test_a_worker_waits_for_its_turn_and_ends_when_none_comes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given one line, a worker makes one block and ends where it would wait for the next."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    clock = Clock(Plan(warm=1, blocks=2, settle=0, steps=1), turns=True)
    clock.tick()
    with pytest.raises(TurnsOver):
        clock.tick()
    assert [sorted(line) for line in lines(capsys.readouterr().out)] == [["ready"], ["block", "cpu", "seconds"]]


def test_variants_are_read_by_name() -> None:
    """A precision, then the number of parts and eager attention where they apply."""
    assert Variant.named("bf16/4+eager") == Variant("bf16", 4, "eager")
    assert Variant.named("fp32") == Variant("fp32", 1, "sdpa")
    for name in ("fp16", "fp32/", "fp32/0", "fp32+flash"):
        with pytest.raises(ValueError, match="fp32 or bf16"):
            Variant.named(name)


def test_the_small_shape_is_fp32_on_both_sides_and_bf16_is_open_to_both_at_25m() -> None:
    """No side is given a precision that the other may not take."""
    for workload in ("rloo", "reward", "dpo", "generate"):
        for shape, allowed in (("small", {"fp32"}), ("25m", {"fp32", "bf16"})):
            for side in ("ours", "peer"):
                assert {Variant.named(n).precision for n in variants(side, workload, shape)} == allowed


def test_an_inner_phase_is_taken_off_the_outer_one() -> None:
    """Outer from 1 to 10, inner from 3 to 7 s: 5 s outer, 4 s inner, and 1 + 2 s before and after are the rest."""
    times = iter([0.0, 1.0, 3.0, 7.0, 10.0, 12.0])
    watch = Stopwatch(lambda: next(times))
    with watch.phase("outer"), watch.phase("inner"):
        pass
    watch.stop()
    assert dict(watch.seconds) == {"rest": 3.0, "outer": 5.0, "inner": 4.0}
    assert dict(watch.calls) == {"outer": 1, "inner": 1}


def test_wrapped_functions_are_timed_put_back_and_named_when_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function is timed only while the block runs; one that does not exist is said to be missing."""

    def double(value: int) -> int:
        return 2 * value

    made = types.ModuleType("made_for_this_test")
    made.double = double  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, made.__name__, made)
    watch = Stopwatch()
    names = [(made.__name__, "double", "work"), (made.__name__, "gone", "work"), ("no_such_module", "x", "work")]
    with wrapped(names, watch) as missing:
        assert made.double(4) == 8
    assert made.double is double
    assert watch.calls["work"] == 1
    assert missing == [f"{made.__name__}.gone", "no_such_module.x"]

"""Operations that a workload needs, counted by hand."""

from __future__ import annotations

from benchmarks.flops import Pass, forward, log_probabilities, phases, sampling, scoring, with_backward
from benchmarks.shapes import SHAPES, Shape

#: One layer of width 2: 4 * 4 attention weights and 3 * 2 * 3 of the MLP are 34; vocabulary 5.
TINY = Shape("tiny", layers=1, d_model=2, heads=1, mlp=3, vocab=5)


def test_parameters_of_the_measured_models() -> None:
    """The small model has 1,115,264 parameters and the other 25,173,888, worked out by hand from their sizes."""
    assert SHAPES["small"].parameters == 1_115_264
    assert SHAPES["25m"].parameters == 25_173_888


def test_forward_by_hand() -> None:
    """2 rows of 3 tokens, 4 logits: 2*34*6 = 408 in the layer, 4*2*(2*(1+2+3)) = 96 of attention, 2*2*5*4 = 80 logits."""
    assert forward(TINY, rows=2, first=1, last=3, logits=4) == 408 + 96 + 80


def test_cached_places_are_attended_to_but_not_computed() -> None:
    """One more token at place 4 of one row: 2*34 in the layer, 4*2*4 = 32 of attention over all four places."""
    assert forward(TINY, rows=1, first=4, last=4, logits=0) == 68 + 32


def test_decoding_token_by_token_adds_up_to_reading_at_once() -> None:
    """Places 1 to 2, then 3, then 4, cost what places 1 to 4 cost."""
    parts = [forward(TINY, rows=3, first=a, last=b, logits=0) for a, b in ((1, 2), (3, 3), (4, 4))]
    assert sum(parts) == forward(TINY, rows=3, first=1, last=4, logits=0)


def test_sampling_reads_a_prompt_once_however_many_rows_it_has() -> None:
    """8 prompts of 16 tokens with 4 samples each: 128 tokens are read, then 32 rows of 63 tokens, one place at a time."""
    small = SHAPES["small"]
    read, decoded = sampling(small, prompts=8, samples=4)
    # Per layer 262,144 weights. Read: 2*4*262144*128 + 4*4*128*8*136 + 2*128*512*8.
    assert read == Pass(128, 268_435_456 + 2_228_224 + 1_048_576)
    # Decoded: 2*4*262144*2016 + 4*4*128*32*(17+...+79 = 3024) + 2*128*512*2016.
    assert decoded == Pass(32, 4_227_858_432 + 198_180_864 + 264_241_152)


def test_training_costs_three_times_the_forward_pass() -> None:
    """A backward pass costs twice its forward pass."""
    assert with_backward([Pass(7, 10), Pass(3, 1)]) == [Pass(7, 30), Pass(3, 3)]


def test_phases_of_each_workload() -> None:
    """RLOO scores and compares what it sampled; reward training only trains; DPO has a reference; sampling 32 prompts."""
    small = SHAPES["small"]
    rloo = phases("rloo", small)
    assert list(rloo) == ["sample", "score", "reference", "update"]
    assert rloo["update"] == with_backward(rloo["reference"])
    assert phases("reward", small) == {"update": with_backward(scoring(small, 64))}
    assert phases("dpo", small)["reference"] == log_probabilities(small, 64)
    assert [p.rows for p in phases("generate", small)["sample"]] == [512, 32]

"""The lean forward pass gives the library's states and gradients."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaModel

from rlback.models import llama_forward
from rlback.models.llama_forward import can_run, states_at


def trunk(**changed: object) -> LlamaModel:
    settings = {"vocab_size": 30, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
                "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64}  # fmt: skip
    torch.manual_seed(1)
    made = LlamaModel(LlamaConfig(**settings | changed)).eval()
    for name, parameter in made.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5)
    return made


IDS = torch.randint(0, 30, (5, 11), generator=torch.Generator().manual_seed(2))
EVERY = torch.ones(5, 11).nonzero(as_tuple=True)
SOME = (torch.tensor([0, 0, 2, 4, 4, 4]), torch.tensor([3, 10, 0, 5, 6, 7]))
ONE_A_ROW = (torch.arange(5), torch.tensor([10, 4, 0, 7, 9]))


def require_the_librarys(made: LlamaModel, ids: torch.Tensor, places: tuple[torch.Tensor, torch.Tensor]) -> None:
    """The same states, and from a random linear reading of them the same gradient of every parameter."""
    reading = torch.randn(len(places[0]), 32, generator=torch.Generator().manual_seed(3))
    found = []
    for states in (states_at(made, ids, *places), made(input_ids=ids, use_cache=False).last_hidden_state[places]):
        made.zero_grad()
        (states * reading).sum().backward()
        found.append((states.detach(), {n: p.grad.clone() for n, p in made.named_parameters()}))
    (ours, our_gradients), (theirs, their_gradients) = found
    assert torch.allclose(ours, theirs, atol=1e-5)
    for name, gradient in their_gradients.items():
        assert torch.allclose(our_gradients[name], gradient, atol=1e-4), name


@pytest.mark.parametrize("places", [EVERY, SOME, ONE_A_ROW], ids=["every", "some", "one a row"])
@pytest.mark.parametrize("groups", [4, 2])
def test_states_and_gradients_are_the_librarys(places: tuple[torch.Tensor, torch.Tensor], groups: int) -> None:
    """The same states, and from a random linear reading of them the same gradient of every parameter."""
    made = trunk(num_key_value_heads=groups)
    assert can_run(made)
    require_the_librarys(made, IDS, places)


def of_one_prompt() -> torch.Tensor:
    """Five rows, of which the first three share four ids and the last two share seven."""
    ids = IDS.clone()
    ids[1:3, :4], ids[4, :7] = ids[0, :4], ids[3, :7]
    return ids


@pytest.mark.parametrize("places", [EVERY, SOME, ONE_A_ROW], ids=["every", "some", "one a row"])
@pytest.mark.parametrize("bias", [False, True])
def test_rows_that_begin_alike_give_the_librarys_states_and_gradients(
    places: tuple[torch.Tensor, torch.Tensor], bias: bool
) -> None:
    """The states of a prompt computed once are those of each row, and every row's gradient reaches it."""
    made, ids = trunk(attention_bias=bias), of_one_prompt()
    require_the_librarys(made, ids, places)


def test_a_prompt_goes_through_a_layer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 55 places 55 - 2 * 4 - 7 = 40 are computed."""
    rows: list[int] = []
    kept = llama_forward._mlp
    monkeypatch.setattr(llama_forward, "_mlp", lambda layer, x: rows.append(len(x)) or kept(layer, x))
    states_at(trunk(), of_one_prompt(), *ONE_A_ROW[:1], torch.full((5,), 10))
    assert rows == [40, 40, 5]


def test_what_is_not_finite_stays_in_its_row() -> None:
    """A token whose embedding is NaN spoils the row that it is in, and no other, though all are padded."""
    made, ids = trunk(), IDS.clone()
    ids[ids == 29] = 28
    ids[0, 0] = 29
    made.embed_tokens.weight.data[29] = float("nan")
    with torch.no_grad():
        states = states_at(made, ids, torch.arange(5), torch.full((5,), 5))
    assert states.isnan().any(1).tolist() == [True, False, False, False, False]


def test_a_second_derivative_is_refused() -> None:
    """The nodes of the pass have a first derivative only, and say so."""
    made = trunk()
    loss = states_at(made, IDS, *SOME).square().sum()
    (first,) = torch.autograd.grad(loss, made.norm.weight, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|differentiate twice"):
        first.sum().backward()


def test_reading_nothing_gives_nothing() -> None:
    """No state, and a gradient of 0 to go back through."""
    made, nowhere = trunk(), torch.zeros(0, dtype=torch.long)
    states = states_at(made, IDS, nowhere, nowhere)
    assert states.shape == (0, 32)
    states.sum().backward()


def test_a_later_token_changes_nothing_before_it() -> None:
    """Causality, with one place a row too: what stands behind a place is not seen there."""
    made, changed = trunk(), IDS.clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % 30
    places = (torch.arange(5), torch.full((5,), 7))
    with torch.no_grad():
        assert torch.equal(states_at(made, IDS, *places), states_at(made, changed, *places))
        assert not torch.equal(states_at(made, IDS, *ONE_A_ROW)[0], states_at(made, changed, *ONE_A_ROW)[0])


def test_in_bf16_it_is_as_near_as_the_library() -> None:
    """Under autocast our states differ from fp32 ones by no more than twice what the library's do."""
    made = trunk()
    with torch.no_grad():
        exact = made(input_ids=IDS, use_cache=False).last_hidden_state[EVERY]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ours = states_at(made, IDS, *EVERY).float()
            theirs = made(input_ids=IDS, use_cache=False).last_hidden_state[EVERY].float()
    assert 0 < (ours - exact).abs().mean() < 2 * (theirs - exact).abs().mean()


def test_products_that_are_more_than_a_matrix_are_asked_one_by_one() -> None:
    """Biases in the projections come through."""
    made = trunk(attention_bias=True)
    torch.nn.init.ones_(made.layers[0].self_attn.q_proj.bias)
    torch.nn.init.ones_(made.layers[2].self_attn.v_proj.bias)
    with torch.no_grad():
        theirs = made(input_ids=IDS, use_cache=False).last_hidden_state
        assert torch.allclose(states_at(made, IDS, *SOME), theirs[SOME], atol=1e-5)
        assert torch.allclose(states_at(made, IDS, *ONE_A_ROW), theirs[ONE_A_ROW], atol=1e-5)


def test_another_architecture_goes_through_the_library() -> None:
    """A GPT-2 trunk: refused by `can_run`, computed all the same."""
    torch.manual_seed(1)
    made = GPT2Model(GPT2Config(vocab_size=30, n_embd=16, n_layer=1, n_head=2, n_positions=16)).eval()
    assert not can_run(made)
    with torch.no_grad():
        assert torch.equal(states_at(made, IDS, *SOME), made(input_ids=IDS, use_cache=False).last_hidden_state[SOME])

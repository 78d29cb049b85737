"""Moments in eight bits: what they weigh, what they decode to, and that training goes on alike."""

import pytest
import torch
from torch import Tensor, nn

from featherweight.core.errors import SchemeError
from featherweight.core.stage import adam, sgd
from featherweight.schemes.tables import Tabled
from featherweight.training.gradients import CompressedGradients
from featherweight.training.states import Kept, QuantizedState, state_bytes

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(128, 60, generator=GENERATOR)
Y = torch.tanh(X @ torch.randn(60, 4, generator=GENERATOR))


def learned(make, steps: int = 150, again: int | None = None) -> tuple[nn.Module, torch.optim.Optimizer, float]:
    """A small network after some steps; with ``again``, from the record of its optimizer at that step."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(60, 80), nn.ReLU(), nn.Linear(80, 4))
    optimizer = make(model.parameters(), 3e-3)
    for number in range(steps):
        if number == again:
            record = optimizer.state_dict()
            assert all(isinstance(x, Tensor) for state in record["state"].values() for x in state.values())
            optimizer = make(model.parameters(), 3e-3)
            optimizer.load_state_dict(record)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(X), Y)
        loss.backward()
        optimizer.step()
    return model, optimizer, float(loss.detach())


@pytest.mark.parametrize("plain", [adam, sgd])
def test_large_moments_take_a_byte_and_a_scale_a_block(plain) -> None:
    model, optimizer, _ = learned(QuantizedState(plain, block=256), steps=2)
    moments = 2 if plain is adam else 1
    state = optimizer.state[model[0].weight]
    kept = [x for x in state.values() if isinstance(x, Kept)]
    assert len(kept) == moments and model[0].weight.numel() == 4800 == 18.75 * 256
    assert {x.indices.dtype for x in kept} == {torch.uint8} and all(len(x.scales) == 19 for x in kept)
    small = sum(p.numel() for p in model.parameters() if p.numel() < 4096)
    scales = sum(x.scales.nbytes for x in kept)
    counts = 4 * len(list(model.parameters())) if plain is adam else 0
    assert state_bytes(optimizer) == moments * (19 * 256 + 4 * small) + scales + counts


def test_what_is_kept_is_near_what_it_was() -> None:
    """The first moment by the table; the second by the table of its roots, so that nothing is rounded to zero."""
    _, optimizer, _ = learned(adam, steps=20)
    state = max(optimizer.state.values(), key=lambda each: each["exp_avg"].numel())
    quantized = QuantizedState(adam)
    first, second = (quantized._kept(state[name]) for name in ("exp_avg", "exp_avg_sq"))
    assert (first.root, second.root) == (False, True)
    error = (first.decode() - state["exp_avg"]).norm() / state["exp_avg"].norm()
    assert float(error) < 0.02
    positive = state["exp_avg_sq"] > 0
    ratio = second.decode()[positive] / state["exp_avg_sq"][positive]
    assert float(ratio.min()) > 0.5 and float(ratio.max()) < 2
    torch.testing.assert_close(quantized._kept(second.decode()).decode(), second.decode())


def test_a_run_goes_on_from_its_record_to_the_same_bits() -> None:
    whole, optimizer, _ = learned(QuantizedState(adam), steps=40)
    resumed, _, _ = learned(QuantizedState(adam), steps=40, again=23)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    before = state_bytes(optimizer)
    optimizer.state_dict()
    assert state_bytes(optimizer) == before


def test_it_learns_as_well_in_less_than_half_the_bytes() -> None:
    _, float_optimizer, loss = learned(adam)
    _, optimizer, other = learned(QuantizedState(adam))
    _, _, both = learned(CompressedGradients(Tabled(), QuantizedState(adam)))
    first = float(nn.functional.mse_loss(torch.zeros_like(Y), Y))
    assert other < 1.5 * loss < 0.05 * first and both < 1.5 * loss
    assert state_bytes(optimizer) < 0.4 * state_bytes(float_optimizer)


def test_bad_settings() -> None:
    with pytest.raises(SchemeError, match="blocks of 0"):
        QuantizedState(adam, block=0)

"""What three papers say happens, on digits: portions that stay frozen, signs over real weights, rounding by chance."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from featherweight.architectures.digits import DigitsNet
from featherweight.core.compressed import Compressed
from featherweight.core.stage import Recipe, Stage
from featherweight.core.task import call, measure
from featherweight.papers import binaryconnect, inq, limited_numerical_precision
from featherweight.run import run
from featherweight.schemes.binary import glorot
from featherweight.schemes.fixed_point import FixedPoint, FixedPointCode, Rounding
from featherweight.schemes.logarithmic import LogCode
from featherweight.schemes.split import SplitCode
from featherweight.session import begin
from featherweight.tasks import find

LAYERS = {"conv1.weight", "conv2.weight", "conv3.weight", "fc1.weight", "fc2.weight"}


def followed(model: nn.Module, stage: Stage, epochs: int, see: Callable[[int, Compressed], None]) -> Compressed:
    """Learn by the stage in a loop of our own; ``see`` is told before the first step and after every one."""
    digits = find("digits")
    assert stage.training is not None and digits.train is not None and digits.loss is not None
    data = digits.train()
    session = begin(model, stage, steps=epochs * len(data), task=digits)  # type: ignore[arg-type]

    def made() -> torch.optim.Optimizer:
        assert stage.training is not None
        return stage.training.optimizer([p for p in session.student.parameters() if p.requires_grad], 1e-3)

    optimizer, step = made(), 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(epochs):
            for batch in data:
                if session.before_step():
                    optimizer = made()
                see(step, session.student)
                optimizer.zero_grad()
                digits.loss(call(session.student, batch), batch).backward()
                optimizer.step()
                step += 1
        see(step, session.student)
    return session.finish()


def accuracy(model: nn.Module) -> float:
    digits = find("digits")
    assert digits.selection is not None
    return measure(model, digits.selection(), digits.quality)


def test_the_frozen_share_grows_and_what_is_frozen_never_changes(digits_model: nn.Module) -> None:
    """INQ, section 2.2: 50, 75, 87.5 and 100 % in equal parts; the rest learns until its portion comes."""
    shares: list[float] = []
    frozen: dict[str, tuple[Tensor, Tensor]] = {}
    moved = dict.fromkeys(LAYERS, 0)

    def see(step: int, student: Compressed) -> None:
        whole = 0
        for name, code in student.codes.items():
            mask = code.mask if isinstance(code, SplitCode) else torch.ones(code.shape, dtype=torch.bool)
            weight = student.weight(name).detach()
            if name in frozen:
                before, values = frozen[name]
                assert bool(mask[before].all()) and torch.equal(weight[before], values[before])
                moved[name] += int((weight != values)[~before].sum())
            frozen[name] = (mask, weight.clone())
            whole += int(mask.sum())
        shares.append(round(whole / sum(mask.numel() for mask, _ in frozen.values()), 3))

    recipe = inq.recipe("digits", bits=4)
    student = followed(digits_model, recipe.stages[0], 4, see)
    assert set(student.codes) == LAYERS and all(isinstance(code, LogCode) for code in student.codes.values())
    assert shares == [0.5] * 16 + [0.75] * 16 + [0.875] * 16 + [1.0] * 17
    assert all(count > 0 for count in moved.values())
    for name, code in student.codes.items():
        magnitudes = code.decode().abs()
        assert torch.equal(
            torch.frexp(magnitudes[magnitudes > 0]).mantissa, torch.tensor(0.5).expand_as(magnitudes[magnitudes > 0])
        )
        assert torch.equal(code.decode(), frozen[name][1])


def test_what_is_left_makes_up_for_what_is_quantized(digits_model: nn.Module) -> None:
    """INQ, section 2.2: loss jumps with a portion, here of two bits a weight, and falls while the rest learns."""
    digits = find("digits")
    assert digits.selection is not None and digits.loss is not None
    batches, loss = list(digits.selection()), digits.loss
    losses: dict[int, float] = {}

    @torch.no_grad()
    def see(step: int, student: Compressed) -> None:
        if step in (0, 23, 24, 47, 48, 71):
            losses[step] = sum(float(loss(call(student, batch), batch)) for batch in batches) / len(batches)

    followed(digits_model, inq.recipe("digits", bits=2).stages[0], 6, see)
    assert losses[0] > 1 and losses[23] < losses[0] / 2
    assert losses[24] > losses[23] and losses[47] < losses[24]
    assert losses[48] > losses[47] and losses[71] < losses[48]


@pytest.mark.long
@pytest.mark.parametrize("stochastic", [False, True])
def test_small_updates_add_up_in_real_weights_until_a_sign_changes(digits_model: nn.Module, stochastic: bool) -> None:
    """BinaryConnect: ±H in every pass, latent weights within [−H, H], and signs that change slowly."""
    stage = binaryconnect.recipe("digits", stochastic=stochastic).stages[0]
    first: dict[str, Tensor] = {}
    changes: list[int] = []

    def see(step: int, student: Compressed) -> None:
        count = 0
        for name, code in student.codes.items():
            latent, bound = student.parameter(name).detach(), glorot(student.parameter(name))
            assert float(student.weight(name).detach().abs().sub(code.scales.decode()).abs().max()) == 0  # type: ignore[attr-defined]
            if step:
                assert float(latent.abs().max()) <= bound * (1 + 1e-6)
            count += int((latent.sign() != first.setdefault(name, latent.sign())).sum())
        changes.append(count)

    student = followed(digits_model, stage, 4, see)
    assert changes[0] == 0 and changes[1] < changes[16] < changes[-1] < sum(w.numel() for w in first.values()) / 2
    assert all(code.bits == 1 for code in student.codes.values()) and set(student.codes) == LAYERS
    untrained = Recipe("signs", (Stage("signs", stage.schemes),))
    assert accuracy(student) > accuracy(run(digits_model, find("digits"), untrained)[0]) + 8


@pytest.mark.long
def test_stochastic_rounding_learns_where_nearest_rounding_stalls() -> None:
    """Gupta et al. 2015, section 4: from random weights, with 8 bits behind the point, in the same words throughout."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = DigitsNet()
    found = {}
    for rounding in Rounding:
        recipe = limited_numerical_precision.recipe("digits", fraction=8, rounding=rounding, epochs=4, lr=0.05)
        student, _ = run(fresh, find("digits"), recipe)
        found[rounding] = accuracy(student)
        for name, parameter in fresh.named_parameters():
            code = student.codes[name]
            assert isinstance(code, FixedPointCode) and code.fraction == 8
            start = FixedPoint(2, 8).rounded(parameter.detach())
            if rounding is Rounding.NEAREST and name.endswith("weight"):
                assert float((code.decode() == start).float().mean()) > 0.99  # its updates vanish
    assert found[Rounding.NEAREST] < 20 and found[Rounding.STOCHASTIC] > 60

"""Gates: their laws against formulas and integrals of our own, and what is left of them when they are folded."""

import math

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor, nn

from featherweight.activations.gates import (
    ExpectedCount,
    FactorPenalty,
    Factors,
    FoldGates,
    Gate,
    Gates,
    GroupNoise,
    HardConcrete,
    NoiseDivergence,
    Scaling,
    Wiring,
    log_uniform_divergence,
)
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError, SelectionError
from featherweight.core.stage import Objective, Recipe, Stage, Tap, Training, sgd
from featherweight.core.task import Example, Task
from featherweight.run import run
from featherweight.search.dead import CutDead
from featherweight.tasks.data import Tensors
from featherweight.training.objectives import TaskLoss


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 5, 3)
        self.head = nn.Linear(5 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.two(self.one(x).relu()).relu()
        logits: Tensor = self.head(nn.functional.adaptive_avg_pool2d(maps, 2).flatten(1))
        return logits


X = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = (X.mean((1, 2, 3)) > 0).long() + (X[:, 0, 0, 0] > 1).long()


def cross_entropy(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(outputs, batch[1])


def model() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().eval()


def task() -> Task:
    return Task(
        "gates", Net, model, lambda: Example((X[:2],)),
        train=lambda: Tensors(X, Y, batch_size=16, shuffle=True), loss=cross_entropy,
    )  # fmt: skip


def tap(student: nn.Module, target: float = 1.0) -> Tap:
    return Tap(torch.zeros(1), None, None, student, cross_entropy, target)


WIRING = Wiring(-3, (0, 1, 2, 3), (9, 9, 9, 9))


def gate(kind: type[Gate], *values: float) -> Gate:
    made = kind(Wiring(-3, tuple(range(len(values))), (9,) * len(values)))
    made.a.data = torch.tensor(values)
    return made


def concrete(*values: float) -> HardConcrete:
    made = gate(HardConcrete, *values)
    assert isinstance(made, HardConcrete)
    return made


def hard_concrete_density(s: Tensor, rest: Tensor, log_alpha: float, beta: float = 2 / 3) -> Tensor:
    """Of a binary concrete variable ``s``, with ``rest = 1 − s``: equation 10 of the paper, before it is stretched."""
    logs = math.log(beta) + log_alpha - (beta + 1) * (s.log() + rest.log())
    return torch.exp(logs - 2 * torch.logaddexp(log_alpha - beta * s.log(), -beta * rest.log()))


@pytest.mark.parametrize("log_alpha", [-3.0, -0.5, 0.0, 2.2])
def test_gates_are_open_as_often_as_the_formula_says(log_alpha: float) -> None:
    """By integrating the density of the concrete variable from where the stretched one is above zero."""
    logits = torch.linspace(math.log(0.1 / 1.1), 35, 200_001, dtype=torch.float64)
    s, rest = logits.sigmoid(), (-logits).sigmoid()
    integral = float(torch.trapezoid(hard_concrete_density(s, rest, log_alpha) * s * rest, logits))
    ours = float(concrete(log_alpha).open().detach())
    assert ours == pytest.approx(integral, abs=2e-4)
    torch.manual_seed(0)
    drawn = concrete(log_alpha).drawn(20_000)
    assert float((drawn != 0).float().mean()) == pytest.approx(ours, abs=0.015)


def test_the_gradient_of_a_draw_and_of_the_expected_count() -> None:
    made = concrete(-1.0, 0.3, 2.0, 9.0)
    torch.manual_seed(3)
    z = made.drawn(50)
    torch.manual_seed(3)
    u = torch.rand(50, 4)
    (ours,) = torch.autograd.grad(z.sum(), made.a)
    s = torch.sigmoid((torch.log(u / (1 - u)) + made.a.detach()) / (2 / 3))
    stretched = 1.2 * s - 0.1
    inside = ((stretched > 0) & (stretched < 1)).float()
    torch.testing.assert_close(z.detach(), stretched.clamp(0, 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours, (inside * 1.2 * s * (1 - s) * 1.5).sum(0), rtol=1e-3, atol=1e-4)
    p = made.open()
    (slope,) = torch.autograd.grad(p.sum(), made.a)
    torch.testing.assert_close(slope, (p * (1 - p)).detach())
    assert made.factors()[3] == 1 and concrete(-9.0).factors()[0] == 0


@pytest.mark.parametrize("log_alpha", [-6.0, -2.0, -0.5, 0.0, 1.0, 4.0])
def test_the_divergence_from_the_log_uniform_prior_is_the_integral(log_alpha: float) -> None:
    deviation = math.exp(log_alpha / 2)

    def entropy_part(mean: float, scale: float) -> float:
        def under(z: float) -> float:
            return stats.norm.pdf(z, mean, scale) * math.log(abs(z))

        ends = (mean - 12 * scale, 0.0, mean + 12 * scale)
        if ends[0] >= 0:
            return float(integrate.quad(under, ends[0], ends[2], limit=400)[0])
        halves = [(ends[0], 0.0), (0.0, ends[2])]
        return float(sum(integrate.quad(under, *half, limit=400, points=[0.0, mean])[0] for half in halves))

    exact = entropy_part(1.0, deviation) - math.log(deviation) - entropy_part(0.0, 1.0)
    assert float(log_uniform_divergence(torch.tensor(log_alpha))) == pytest.approx(exact, abs=0.02)


def test_noise_has_the_variance_that_it_says() -> None:
    torch.manual_seed(0)
    made = gate(GroupNoise, -2.0, 0.0, 1.5)
    drawn = made.drawn(40_000)
    torch.testing.assert_close(drawn.mean(0), torch.ones(3), rtol=0, atol=0.05)
    torch.testing.assert_close(drawn.var(0), made.a.detach().exp(), rtol=0.05, atol=0)
    assert made.factors().tolist() == [1, 1, 0]


def test_every_channel_has_a_gate_wherever_it_is_read() -> None:
    student = Compressed(model())
    student.tap(Gates(HardConcrete).taps(student, task()))
    assert [len(each.a) for each in student.taps] == [1, 6, 5]  # type: ignore[union-attr, arg-type]
    assert sorted(each.sizes[0] for each in (tap.wiring for tap in student.taps)) == [12, 45, 54]  # type: ignore
    count = ExpectedCount()(tap(student))
    torch.testing.assert_close(count, (54 + 6 * 45 + 60) * concrete(2.197).open()[0])
    student.tap(Gates(HardConcrete, fixed=False).taps(Compressed(model()), task()))
    with pytest.raises(SelectionError, match="GroupNoise"):
        NoiseDivergence()(tap(student))


@pytest.mark.parametrize("kind", [HardConcrete, GroupNoise, Scaling])
def test_folded_gates_compute_the_same_and_closed_ones_are_cut(kind: type[Gate]) -> None:
    student = Compressed(model()).eval()
    student.tap(Gates(kind, fixed=False).taps(student, task()))
    closed = {HardConcrete: -5.0, GroupNoise: 3.0, Scaling: 0.0}[kind]
    for each in student.taps:
        assert isinstance(each, Gate)
        each.a.data.uniform_(0.3, 0.9)
        each.a.data[1::2] = closed
    student.settle()
    assert all(isinstance(each, Factors) for each in student.taps)
    before = student(X)
    done = FoldGates().repair(student, student, task())
    assert not student.sites and set(done.changed) == {"two.weight", "head.weight"}
    torch.testing.assert_close(student(X), before, rtol=1e-4, atol=1e-6)
    small, _ = run(student.base, task(), Recipe("cut", (Stage("cut", edit=CutDead()),)))
    assert small.base.two.weight.shape == (3, 3, 3, 3) and small.base.head.in_features == 12
    torch.testing.assert_close(small(X), before, rtol=1e-4, atol=1e-6)


def test_scaling_factors_reach_zero_by_the_proximal_step() -> None:
    learn = Stage(
        "factors",
        tap=Gates(Scaling, fixed=False),
        training=Training(15, 5e-2, sgd, final=1.0),
        objective=Objective((TaskLoss(), FactorPenalty(0.8))),
    )
    stages = (learn, Stage("fold", repairs=(FoldGates(),)))
    dense, _ = run(model(), task(), Recipe("dense", stages))
    small, _ = run(model(), task(), Recipe("cut", (*stages, Stage("cut", edit=CutDead()))))
    assert small.base.one.out_channels + small.base.two.out_channels < 9
    torch.testing.assert_close(small(X), dense(X), rtol=1e-4, atol=1e-5)


def test_gates_come_back_from_json() -> None:
    for kind in (HardConcrete, GroupNoise, Scaling):
        made = gate(kind, 0.1, 0.2)
        assert kind.from_json(made.to_json()).wiring == made.wiring
    settled = gate(Scaling, 0.5, 0.25).settled()
    assert Factors.from_json(settled.to_json()).to_json() == settled.to_json()
    for wrong in ([], [1, [0], [1]], [-1, [0, 2], [1, 1]], [-1, [0], [1], ["x"]]):
        with pytest.raises(FormatError):
            Factors.from_json(wrong)

"""Penalties on channels: their values, gradients and proximal steps against formulas of our own."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, SelectionError
from featherweight.core.stage import Iterative, Objective, Recipe, Stage, Tap, Training, sgd
from featherweight.core.task import Example, Task
from featherweight.costs.layers import Macs
from featherweight.run import run
from featherweight.search.dead import CutDead
from featherweight.tasks.data import Tensors
from featherweight.training.gains import CostedGains, GainPenalty
from featherweight.training.groups import Count, GroupPenalty, GrowingDecay, Lasso, Minimax, Profile, Side, find_groups
from featherweight.training.objectives import TaskLoss


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.two, self.head = nn.Conv2d(6, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.two(self.norm(self.one(x)).relu()).relu()
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits


X = torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(0))
Y = (X.mean((1, 2, 3)) > 0).long() + (X[:, 0, 0, 0] > 1).long()


def cross_entropy(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(outputs, batch[1])


def model() -> Normed:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Normed()
        nn.init.normal_(made.norm.weight)
    return made.eval()


def task() -> Task:
    return Task(
        "groups", Normed, model, lambda: Example((X[:2],)),
        train=lambda: Tensors(X, Y, batch_size=16, shuffle=True), loss=cross_entropy,
    )  # fmt: skip


def tap(student: Compressed, target: float = 1.0) -> Tap:
    return Tap(torch.zeros(1), None, None, student, cross_entropy, target)


def learning() -> Compressed:
    student = Compressed(model())
    student.learn({})
    return student


def test_the_value_is_the_sum_over_labels_and_so_is_the_gradient() -> None:
    student = learning()
    term = GroupPenalty(0.3, single=0.25).begun(student, task())
    value = term(tap(student))
    two, head = student.parameter("two.weight"), student.parameter("head.weight")
    columns = [two[:, i].flatten() for i in range(6)] + [head[:, i] for i in range(4)]
    groups = sum((len(w) ** 0.5 * w.norm() for w in columns), torch.zeros(()))
    expected = 0.75 * groups + 0.25 * sum((w.abs().sum() for w in columns), torch.zeros(()))
    torch.testing.assert_close(value, expected)
    (ours,) = torch.autograd.grad(value, two, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected, two)
    torch.testing.assert_close(ours, theirs)


def test_groups_that_write_a_channel_hold_its_gain_and_shift_but_no_statistics() -> None:
    student = learning()
    groups = find_groups(student, task(), Side.WRITING)
    assert {name for name, _ in groups.of} == {"one.weight", "norm.weight", "norm.bias", "two.weight", "two.bias"}
    assert sorted(groups.sizes.tolist()) == [20.0] * 6 + [55.0] * 4
    with torch.no_grad():
        student.parameter("two.weight").zero_()
        student.parameter("two.bias").zero_()
    norms = groups.norms(student)
    assert int((norms == 0).sum()) == 4
    norms.sum().backward()  # type: ignore[no-untyped-call]
    gradient = student.parameter("two.weight").grad
    assert gradient is not None and bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("profile", [Lasso(), Minimax(1.5), Minimax(0.3), Count()])
@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
def test_proximal_steps_are_minima(profile: Profile, t: float) -> None:
    norms = torch.linspace(0.01, 3, 60, dtype=torch.float64)
    x = torch.linspace(0, 4, 8001, dtype=torch.float64)
    values = 0.5 * (x[None] - norms[:, None]) ** 2 + t * profile.value(x)[None]
    ours = profile.step(norms, torch.full_like(norms, t))
    reached = 0.5 * (ours - norms) ** 2 + t * profile.value(ours)
    assert bool((reached <= values.amin(1) + 1e-6).all())


def test_the_proximal_step_of_the_sparse_group_lasso_is_the_minimum() -> None:
    student = learning()
    before = student.parameter("two.weight").detach().clone()
    term = GroupPenalty(1.0, proximal=True, single=0.4).begun(student, task())
    assert float(term(tap(student))) == 0
    term.stepped(student, 0.02, 1.0)
    after = student.parameter("two.weight").detach()

    def worth(w: Tensor) -> Tensor:
        """In float64: nearby, what is compared differs by less than float32 tells apart."""
        groups = w.double().transpose(0, 1).flatten(1)
        penalty = 0.6 * groups.shape[1] ** 0.5 * groups.norm(dim=1).sum() + 0.4 * w.double().abs().sum()
        return 0.5 * (w.double() - before).square().sum() + 0.02 * penalty

    assert bool((after == 0).any()) and not torch.equal(after, before)
    draw = torch.Generator().manual_seed(0)
    for _ in range(200):
        assert worth(after + 0.01 * torch.randn(after.shape, generator=draw)) > worth(after)
        assert worth(after * (1 + 0.1 * float(torch.randn((), generator=draw)))) >= worth(after)


@pytest.mark.parametrize("side", [Side.READING, Side.WRITING])
def test_what_the_proximal_step_drove_to_zero_is_cut_and_nothing_changes(side: Side) -> None:
    learn = Stage(
        "learn",
        training=Training(12, 5e-2, sgd, final=1.0),
        objective=Objective((TaskLoss(), GroupPenalty(0.15, side=side, proximal=True))),
    )
    dense, _ = run(model(), task(), Recipe("dense", (learn,)))
    student, _ = run(model(), task(), Recipe("cut", (learn, Stage("cut", edit=CutDead()))))
    assert dense.base.one.weight.shape[0] == 6
    assert student.base.one.weight.shape[0] + student.base.two.weight.shape[0] < 10
    torch.testing.assert_close(student(X), dense(X), rtol=1e-4, atol=1e-5)


def test_gains_are_thresholded() -> None:
    student = learning()
    before = student.parameter("norm.weight").detach().clone()
    term = GainPenalty(0.5).begun(student, task())
    torch.testing.assert_close(term(tap(student)), before.abs().sum())
    term = GainPenalty(0.5, proximal=True, rising=True).begun(student, task())
    term.stepped(student, 0.2, 0.5)
    torch.testing.assert_close(student.parameter("norm.weight").detach(), nn.functional.softshrink(before, 0.05))


def test_growing_decay_drives_out_the_channels_that_were_weakest() -> None:
    growing = GrowingDecay(30.0, share=0.5, side=Side.WRITING)
    stage = Stage(
        "grow",
        schedule=Iterative(20),
        training=Training(20, 2e-2, sgd, final=1.0),
        objective=Objective((TaskLoss(), growing)),
    )
    begun = growing.begun(learning(), task())
    assert begun.chosen is not None and begun.groups is not None and begun.chosen.sum() == 5
    low, high = (float(begun(tap(learning(), target)).detach()) for target in (0.25, 1.0))
    assert low == pytest.approx(high / 4)
    student, _ = run(model(), task(), Recipe("grow", (stage,)))
    norms = begun.groups.norms(student)
    assert norms[begun.chosen == 1].max() < 0.1 * norms[begun.chosen == 0].min()


def test_gains_cost_what_their_layers_do() -> None:
    """By differences: what the model's multiply-accumulates lose with a channel, times its gain."""
    student = learning()
    term = CostedGains(cost=Macs(), alive=0.0).begun(student, task())
    gain = student.parameter("norm.weight")
    (slopes,) = torch.autograd.grad(term(tap(student)), gain)
    one, two, head = 36 * 9 * 2, 16 * 9 * 4, 4 * 3
    total = one * 6 + two * 6 + head
    torch.testing.assert_close(slopes, gain.detach().sign() * (one + two) / total)
    with pytest.raises(SelectionError, match="cost"):
        CostedGains().begun(student, task())


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(SchemeError, match="no gradient"):
        GroupPenalty(profile=Count())
    with pytest.raises(SelectionError, match="begun"):
        GroupPenalty()(tap(learning()))
    plain = replace(task(), model=lambda: nn.Linear(2, 2), example=lambda: Example((torch.zeros(1, 2),)))
    with pytest.raises(SelectionError, match="no channel"):
        GroupPenalty().begun(Compressed(nn.Linear(2, 2)), plain)

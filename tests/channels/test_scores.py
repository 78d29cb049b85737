"""Scores of channels against formulas of their own, and laws that all of them keep."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.channels.activations import ActivationMean, NonZeros, moments
from featherweight.channels.gates import Ablation, GateFisher, GateHessian, Gates, Taken, Taylor
from featherweight.channels.movement import Movement
from featherweight.channels.norms import Carried, GeometricMedian, Norm, NormScale, Random, Saliency
from featherweight.channels.propagation import Propagated, infinite_selection
from featherweight.channels.reconstruction import Greedy, Lasso
from featherweight.channels.redundancy import ActivationCorrelation, DataFree, FilterCorrelation
from featherweight.channels.scores import (
    AsTheyAre,
    ByMean,
    ByNorm,
    Groups,
    Isomorphic,
    LabelScore,
    Normalisation,
    Only,
    signature,
)
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, SelectionError, TaskError
from featherweight.core.task import Example, Task
from featherweight.graph.cut import masked
from featherweight.graph.edits import walk
from featherweight.graph.labels import Labels
from featherweight.metrics.curvature import BackpropagatedCurvature
from featherweight.metrics.diagonal import Fisher
from featherweight.search.channels import ChannelScore, Curve

from .nets import mixed, plain, randomised, task

SCORES: list[ChannelScore] = [
    Norm(),
    Norm(2, Carried.ALL),
    Norm(normalisation=ByMean()),
    GeometricMedian(normalisation=ByNorm()),
    Random(),
    NormScale(),
    Saliency(Fisher(2), normalisation=Isomorphic()),
    Taylor(),
    Taylor(taken=Taken.SIGNED),
    Taylor(taken=Taken.SQUARED),
    GateFisher(),
    GateHessian(slope=True),
    Ablation(),
    ActivationMean(),
    NonZeros(),
    Propagated(),
    Movement(steps=3),
    DataFree(),
    DataFree(scaled=True),
    FilterCorrelation(),
    ActivationCorrelation(),
    Greedy(),
    Lasso(steps=20),
]


def prepared(model: nn.Module, given: Task) -> tuple[Compressed, Labels]:
    student = Compressed(model).eval()
    return student, walk(student.base, given.example()).labels


def by_label(score: LabelScore, student: Compressed, labels: Labels, given: Task) -> dict[int, float]:
    groups = labels.groups()
    found = score.scores(student, labels, groups, given)
    pairs = zip(groups, found, strict=True)
    return {label: float(s) for group, each in pairs if each is not None for label, s in zip(group, each, strict=True)}


def slices_of(model: nn.Module, labels: Labels, label: int, dims: set[int]) -> list[Tensor]:
    named = dict(model.named_parameters())
    places = [(named[name], dim, at) for name, dim, at in labels.free[label] if name in named]
    return [w.detach().select(dim, at) for w, dim, at in places if w.ndim > 1 and dim in dims]


class Up(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.out = nn.Conv2d(1, 5, 1), nn.ConvTranspose2d(5, 4, 2, 2), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        outer: Tensor = self.out(self.up(self.down(x).relu()).relu())
        return outer


def test_columns_of_a_transposed_convolution_make_its_channels() -> None:
    """Its weight is [inputs, outputs, ...]: its rows belong to the channels that it reads."""
    model = randomised(Up())
    student, labels = prepared(model, task(model, (1, 3, 3)))
    groups = labels.groups()
    assert sorted(map(len, groups)) == [4, 5]
    scores = Norm().scores(student, labels, groups, task(model, (1, 3, 3)))
    for group, found in zip(groups, scores, strict=True):
        filters = model.down.weight if len(group) == 5 else model.up.weight.transpose(0, 1)
        torch.testing.assert_close(found, filters.detach().abs().flatten(1).sum(1))
    pairs = DataFree().pairs(student, labels, groups, task(model, (1, 3, 3)))
    for group, each in zip(groups, pairs, strict=True):
        layer = model.down if len(group) == 5 else model.up
        weights = layer.weight if len(group) == 5 else layer.weight.transpose(0, 1)
        made = torch.cat([weights.flatten(1), layer.bias[:, None]], 1).detach()
        torch.testing.assert_close(each.distance, torch.cdist(made, made).square(), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("score", SCORES, ids=repr)
def test_errors_of_a_curve_never_fall_and_every_label_goes_once(score: ChannelScore) -> None:
    model, given = mixed()
    student, labels = prepared(model, given)
    before = {name: tensor.clone() for name, tensor in student.base.state_dict().items()}
    curves = score.curves(student, labels, given)
    groups = {frozenset(group) for group in labels.groups()}
    assert curves
    for each in curves:
        assert frozenset(each.labels) in groups and len(set(each.labels)) == len(each.labels)
        assert each.errors[0] == 0 and all(a <= b for a, b in zip(each.errors, each.errors[1:], strict=False))
    assert score.curves(student, labels, given) == curves
    assert all(torch.equal(before[name], tensor) for name, tensor in student.base.state_dict().items())


def test_a_closed_gate_is_a_masked_channel() -> None:
    model, given = mixed()
    student, labels = prepared(model, given)
    groups = labels.groups()
    gates = Gates(student, labels, groups)
    assert gates.count == sum(map(len, groups))  # every channel of this network is read by what gates stand before
    x = next(iter(given.calibration_data()))[0]
    for numbers, group in zip(gates.numbers, groups, strict=True):
        assert numbers is not None
        zeroed, values = copy.deepcopy(model), torch.ones(gates.count, dtype=torch.float64)
        masked(labels, group[:2], zeroed)
        values[numbers[:2]] = 0
        with gates.applied(values):
            torch.testing.assert_close(student(x), zeroed(x), rtol=1e-12, atol=1e-12)


def test_norms_are_over_all_slices_that_carry_the_label() -> None:
    model, given = mixed()
    student, labels = prepared(model, given)
    for score, dims in ((Norm(), {0}), (Norm(2, Carried.ALL), {0, 1})):
        for label, found in by_label(score, student, labels, given).items():
            entries = torch.cat([each.flatten() for each in slices_of(model, labels, label, dims)])
            assert found == pytest.approx(float(torch.linalg.vector_norm(entries, score.p)), rel=1e-12)
    summed = by_label(Saliency(), student, labels, given)
    norms = by_label(Norm(2), student, labels, given)
    assert all(summed[label] == pytest.approx(norms[label] ** 2 / 2) for label in norms)


def test_scales_of_norms() -> None:
    model, given = mixed()
    student, labels = prepared(model, given)
    found = by_label(NormScale(), student, labels, given)
    for label, places in labels.free.items():
        scales = [float(model.get_parameter(n)[at].detach().abs()) for n, _, at in places if n in SCALES]
        assert found.get(label) == (pytest.approx(sum(scales)) if scales else None)


SCALES = {"norm1.weight", "norm3.weight"}


def test_distances_to_all_others() -> None:
    model, given = mixed()
    student, labels = prepared(model, given)
    found = by_label(GeometricMedian(), student, labels, given)
    for group in labels.groups():
        rows = [torch.cat([s.flatten() for s in slices_of(model, labels, label, {0})]) for label in group]
        for label, row in zip(group, rows, strict=True):
            assert found[label] == pytest.approx(sum(float((row - other).norm()) for other in rows), rel=1e-9)


def test_saliencies_weigh_every_entry_by_the_diagonal() -> None:
    model, given = plain()
    student, labels = prepared(model, given)
    for rule in (Fisher(2), BackpropagatedCurvature(batches=2)):
        metrics = rule.measure(student, ["fc1.weight", "fc2.weight"], given)
        found = by_label(Saliency(rule), student, labels, given)
        for label, places in labels.free.items():
            name, _, at = places[0]
            w = model.get_parameter(name).detach()[at]
            diagonal = metrics[name].weights(model.get_parameter(name))
            assert diagonal is not None
            assert found[label] == pytest.approx(float((diagonal[at] * w.square()).sum() / 2), rel=1e-9)


def losses(model: nn.Module, given: Task) -> Tensor:
    """Of every sample."""
    with torch.no_grad():
        return torch.cat([F.cross_entropy(model(x), y, reduction="none") for x, y in given.calibration_data()])


def scaled(model: nn.Module, labels: Labels, label: int, factor: float) -> nn.Module:
    """A copy whose layers read so much of the channel."""
    after = copy.deepcopy(model)
    for name, dim, at in labels.free[label]:
        if dim == 1:
            after.get_parameter(name).data.select(1, at).mul_(factor)
    return after


def test_derivatives_by_gates_are_those_of_finite_differences() -> None:
    model, given = mixed()
    student, labels = prepared(model, given)
    step = 1e-6
    slope = {
        label: (
            losses(scaled(model, labels, label, 1 + step), given)
            - losses(scaled(model, labels, label, 1 - step), given)
        )
        / (2 * step)
        for label in labels.free
    }
    formulas: dict[LabelScore, Callable[[Tensor], Tensor]] = {
        Taylor(): lambda g: g.abs().mean(),
        Taylor(taken=Taken.SQUARED): lambda g: g.square().mean(),
        Taylor(taken=Taken.SIGNED): lambda g: -g.mean(),
        GateFisher(): lambda g: g.square().mean() / 2,
    }
    for score, formula in formulas.items():
        found = by_label(score, student, labels, given)
        assert found.keys() == labels.free.keys()
        for label, value in found.items():
            assert value == pytest.approx(float(formula(slope[label])), rel=1e-5, abs=1e-9)


class Apart(nn.Module):
    """Each hidden unit has an output of its own, so that gates do not interact in a sum of squares."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x).relu())


def test_second_order_is_exact_where_the_loss_is_a_sum_of_squares_apart() -> None:
    model = randomised(Apart())
    model.get_parameter("fc2.weight").data.mul_(torch.eye(4))
    x = torch.randn(9, 3, dtype=torch.float64)
    given = Task(
        "apart", lambda: model, lambda: model, lambda: Example((x[:2],)), train=lambda: [(x, x)],
        loss=lambda outputs, batch: outputs.square().sum(1).mean(),
    )  # fmt: skip
    student, labels = prepared(model, given)
    second = by_label(GateHessian(slope=True, draws=1), student, labels, given)
    exact = by_label(Ablation(), student, labels, given)
    assert second == pytest.approx(exact, rel=1e-9)
    curvature = by_label(GateHessian(draws=1), student, labels, given)
    for at, label in enumerate(labels.groups()[0]):
        z = model.get_submodule("fc1")(x).relu()[:, at].detach() * model.get_parameter("fc2.weight")[at, at].detach()
        assert curvature[label] == pytest.approx(float(z.square().mean()), rel=1e-9)


def test_ablation_is_the_loss_of_the_masked_model() -> None:
    model, given = mixed()
    student, labels = prepared(model, given)
    found = by_label(Ablation(batches=2), student, labels, given)
    for label, value in found.items():
        zeroed = copy.deepcopy(model)
        masked(labels, [label], zeroed)
        rise = float(losses(zeroed, given).mean() - losses(model, given).mean())
        assert value == pytest.approx(rise, rel=1e-9, abs=1e-12)


def test_activations_are_those_that_are_read() -> None:
    model, given = plain()
    student, labels = prepared(model, given)
    x = torch.cat([batch[0] for batch in given.calibration_data()])
    with torch.no_grad():
        first = model.get_submodule("fc1")(x).relu()
        second = model.get_submodule("fc2")(first).relu()
    means = by_label(ActivationMean(), student, labels, given)
    live = by_label(NonZeros(), student, labels, given)
    for group, z in zip(labels.groups(), (first, second), strict=True):
        assert [means[label] for label in group] == pytest.approx(z.mean(0).tolist())
        assert [live[label] for label in group] == pytest.approx((z > 0).double().mean(0).tolist())
    seen = moments(student, labels, labels.groups(), given, 2)[0]
    assert seen is not None
    torch.testing.assert_close(seen.covariance, torch.cov(first.T, correction=0))
    alive = first.std(0) > 0
    torch.testing.assert_close(seen.correlation[alive][:, alive], torch.corrcoef(first.T[alive]))


def test_channels_behind_a_flattening_are_read_at_every_position() -> None:
    model, given = mixed()
    student, labels = prepared(model, given)
    x = torch.cat([batch[0] for batch in given.calibration_data()])
    maps: list[Tensor] = []
    model.get_submodule("fc1").register_forward_pre_hook(lambda module, args: maps.append(args[0].reshape(-1, 4, 4)))
    with torch.no_grad():
        model(x)
    group = next(group for group in labels.groups() if labels.free[group[0]][0][0] == "conv3.weight")
    live = by_label(NonZeros(), student, labels, given)
    assert [live[label] for label in group] == pytest.approx((maps[0] != 0).double().mean((0, 2)).tolist())
    seen = moments(student, labels, [group], given, 2)[0]
    assert seen is not None
    torch.testing.assert_close(seen.mean, maps[0].mean((0, 2)))


def test_importance_propagates_through_absolute_weights() -> None:
    model, given = plain()
    student, labels = prepared(model, given)
    x = torch.cat([batch[0] for batch in given.calibration_data()])
    with torch.no_grad():
        second = model.get_submodule("fc2")(model.get_submodule("fc1")(x).relu()).relu()
    final = infinite_selection(second)
    found = by_label(Propagated(), student, labels, given)
    before = model.get_parameter("fc2.weight").detach().abs().T @ final
    for group, expected in zip(labels.groups(), (before, final), strict=True):
        assert [found[label] for label in group] == pytest.approx(expected.tolist())


def test_infinite_selection_is_the_sum_over_paths() -> None:
    torch.manual_seed(0)
    rows = torch.randn(50, 4, dtype=torch.float64) * torch.tensor([1.0, 2.0, 0.5, 1.0])
    rows[:, 3] = rows[:, 0]
    sizes = rows.std(0, correction=0)
    sizes = sizes / sizes.max()
    paths = 0.5 * torch.maximum(sizes[:, None], sizes) + 0.5 * (1 - torch.corrcoef(rows.T).abs())
    rate = 0.9 / torch.linalg.eigvalsh(paths).max()
    total = sum(torch.linalg.matrix_power(rate * paths, length).sum(1) for length in range(1, 400))
    torch.testing.assert_close(infinite_selection(rows), total, rtol=1e-6, atol=1e-9)
    with pytest.raises(TaskError, match="do not change"):
        infinite_selection(torch.ones(5, 3, dtype=torch.float64))


def test_movement_is_the_sum_of_weights_times_their_gradients() -> None:
    model, given = plain()
    student, labels = prepared(model, given)
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05)
    total = torch.zeros(8, dtype=torch.float64)
    for x, y in [*given.calibration_data(), *given.calibration_data()][:3]:
        optimizer.zero_grad()
        F.cross_entropy(twin(x), y).backward()
        w = twin.get_parameter("fc1.weight")
        assert w.grad is not None
        total -= (w * w.grad).detach().sum(1)
        optimizer.step()
    found = by_label(Movement(steps=3, lr=0.05), student, labels, given)
    assert [found[label] for label in labels.groups()[0]] == pytest.approx((total - total.min()).tolist())


def test_dead_channels_matter_least() -> None:
    model, given = mixed()
    model.get_parameter("fc1.weight").data[2] = 0
    model.get_parameter("fc1.bias").data[2] = -1  # nothing comes through the rectifier
    model.get_parameter("norm1.weight").data[3] = 0
    model.get_parameter("norm1.bias").data[3] = -1
    student, labels = prepared(model, given)
    dead = {
        label for label, places in labels.free.items() if places[0][::2] in {("fc1.weight", 2), ("conv1.weight", 3)}
    }
    assert len(dead) == 2
    for score in (Taylor(), GateFisher(), GateHessian(), Ablation(), ActivationMean(), NonZeros()):
        found = by_label(score, student, labels, given)
        assert all(found[label] == pytest.approx(0, abs=1e-12) for label in dead)
    for group_score in (Greedy(), Lasso(), ActivationCorrelation()):
        curves = [curve for curve in group_score.curves(student, labels, given) if dead & set(curve.labels)]
        assert [curve.labels[0] in dead for curve in curves] == [True, True]
        assert [curve.errors[1] for curve in curves] == pytest.approx([0, 0], abs=1e-6)  # damped


@dataclass(frozen=True)
class Given(LabelScore):
    values: tuple[tuple[float, ...], ...] = ()

    def scores(self, student: Compressed, labels: Labels, groups: Groups, task: Task) -> list[Tensor | None]:
        return [torch.tensor(each, dtype=torch.float64) for each in self.values]


@pytest.mark.parametrize(
    ("normalisation", "units"),
    [
        (AsTheyAre(), (1.0, 1.0)),
        (ByMean(), (2.0, 20.0)),
        (ByNorm(), (14**0.5, 10 * 14**0.5)),
        (Isomorphic(), (11.0, 11.0)),
    ],
    ids=repr,
)
def test_units_of_groups(normalisation: Normalisation, units: tuple[float, float]) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    given = task(model, (3,))
    student, labels = prepared(model, given)
    values = ((3.0, 1.0, 2.0), (10.0, 30.0, 20.0))
    curves = Given(values=values, normalisation=normalisation).curves(student, labels, given)
    assert curves[0].errors == pytest.approx([0, 1 / units[0], 3 / units[0], 6 / units[0]])
    assert curves[1].errors == pytest.approx([0, 10 / units[1], 30 / units[1], 60 / units[1]])
    first = labels.groups()[0]
    assert curves[0].labels == (first[1], first[2], first[0])


def test_groups_of_equal_structure_are_isomorphic() -> None:
    model, given = mixed()
    student, labels = prepared(model, given)
    signs = {labels.free[group[0]][0][0]: signature(student, labels, group) for group in labels.groups()}
    assert len(set(signs.values())) == len(signs) == 4  # of conv1 a norm and a reader, of conv3 four entries read
    two = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    student, labels = prepared(two, Task("two", lambda: two, lambda: two, lambda: Example((torch.zeros(2, 4),))))
    assert len({signature(student, labels, group) for group in labels.groups()}) == 1


def test_only_some_groups_are_weighed() -> None:
    model, given = mixed()
    student, labels = prepared(model, given)
    curves = Only(Norm(), ("conv*",)).curves(student, labels, given)
    assert {labels.free[curve.labels[0]][0][0] for curve in curves} == {"conv1.weight", "conv3.weight"}
    assert curves == [
        c for c in Norm().curves(student, labels, given) if c.labels in [curve.labels for curve in curves]
    ]
    with pytest.raises(SelectionError, match=r"stem\.weight"):
        Only(Norm(), ("nothing",)).curves(student, labels, given)


def test_scores_below_zero_count_zero() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    given = task(model, (3,))
    student, labels = prepared(model, given)
    (curve,) = Given(values=((-3.0, 1.0, -5.0),)).curves(student, labels, given)
    group = labels.groups()[0]
    assert curve == Curve((group[2], group[0], group[1]), (0.0, 0.0, 0.0, 1.0))
    with pytest.raises(SchemeError, match="not finite"):
        Given(values=((0.0, float("nan"), 1.0),)).curves(student, labels, given)


def test_a_task_without_a_loss_says_so() -> None:
    model, given = plain()
    bare = Task("bare", given.architecture, given.model, given.example, calibration=given.train)
    student, labels = prepared(model, bare)
    for score in (Taylor(), Ablation(), Movement()):
        with pytest.raises(TaskError, match="has none"):
            score.curves(student, labels, bare)

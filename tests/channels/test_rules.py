"""A share of every pool is cut as masked, and what stands in for it is no worse than nothing."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from featherweight.channels.gates import Gates
from featherweight.channels.norms import Norm, NormScale
from featherweight.channels.particles import ParticleCut, right_share
from featherweight.channels.reconstruction import Greedy, Lasso, contributions, lasso, refitted
from featherweight.channels.redundancy import ActivationCorrelation, DataFree, FilterCorrelation
from featherweight.channels.rules import CutShare, MadeUp, Pool, StandIn, first, gone
from featherweight.channels.scores import Only
from featherweight.channels.standins import Constants, LeastSquares, Nearest, Rescaled
from featherweight.core.compressed import Compressed
from featherweight.core.edit import Edit
from featherweight.core.errors import SchemeError, SelectionError
from featherweight.core.stage import EditRule, Recipe, Stage
from featherweight.core.task import Task
from featherweight.costs.layers import Parameters
from featherweight.graph.cut import Cut, masked
from featherweight.graph.edits import kept_by, walk
from featherweight.graph.labels import Labels
from featherweight.run import run
from featherweight.search.channels import Curve, Narrow

from .nets import mixed, plain, randomised, task
from .test_scores import SCORES


def inputs(given: Task) -> Tensor:
    return torch.cat([batch[0] for batch in given.calibration_data()])


def cut_by(rule: EditRule, model: nn.Module, given: Task) -> Compressed:
    student, _ = run(model, given, Recipe("cut", (Stage("cut", edit=rule),)))
    return student


def dead_in(edits: Sequence[Edit], labels: Labels) -> list[int]:
    edit = Cut(kept_by(edits))
    return [
        each for group in labels.groups() for each, off in zip(group, gone(labels, group, edit), strict=True) if off
    ]


@pytest.mark.parametrize("score", [*SCORES[::3], Greedy()], ids=repr)
def test_what_is_cut_by_a_score_is_what_is_masked(score: object) -> None:
    model, given = mixed()
    rule = CutShare(0.4, score)  # type: ignore[arg-type]
    student = Compressed(model).eval()
    labels = walk(student.base, given.example()).labels
    zeroed = copy.deepcopy(model)
    dead = dead_in(rule.decide(student, given), labels)
    curves = {frozenset(curve.labels): curve for curve in score.curves(student, labels, given)}  # type: ignore[attr-defined]
    for group in labels.groups():
        mine = [label for label in dead if label in group]
        if frozenset(group) in curves:
            assert mine and set(mine) == set(curves[frozenset(group)].labels[: round(0.4 * len(group))])
        else:
            assert not mine
    masked(labels, dead, zeroed)
    x = inputs(given)
    torch.testing.assert_close(cut_by(rule, model, given)(x), zeroed(x), rtol=1e-12, atol=1e-12)


def test_shares_of_pools() -> None:
    curves = [Curve((1, 2, 3, 4), (0.0, 1.0, 2.0, 10.0, 20.0)), Curve((5, 6, 7, 8), (0.0, 3.0, 6.0, 6.5, 30.0))]
    assert first(curves, 0.25, 1) == [1, 2]
    assert first(curves, 0.5, 1) == [1, 2, 5, 6]  # 7 rises by less than 6 did, and does not overtake it
    assert first(curves, 0.9, 1) == [1, 2, 5, 6, 7, 3]  # one of each stays
    assert first(curves, 0.9, 3) == [1, 5]
    assert first(curves[:1], 0.6, 2) == [1, 2]


def test_a_pool_of_all_takes_from_the_group_of_small_weights() -> None:
    model, given = plain()
    model.get_parameter("fc2.weight").data.mul_(1e-3)
    kept = {}
    for pool in Pool:
        student = cut_by(CutShare(0.25, Norm(), pool), model, given)
        kept[pool] = [len(student.parameter(name)) for name in ("fc1.weight", "fc2.weight")]
    assert kept == {Pool.GROUP: [6, 4], Pool.ISOMORPHIC: [8, 2], Pool.ALL: [8, 2]}


def test_a_share_of_nothing_and_shares_out_of_range() -> None:
    model, given = plain()
    with pytest.raises(SelectionError, match="no channel"):
        CutShare(0.01, Norm()).decide(Compressed(model), given)
    for share, least in ((0.0, 1), (1.0, 1), (0.5, 0)):
        with pytest.raises(SchemeError, match="give a share"):
            CutShare(share, Norm(), least=least)


def duplicated(factor: float = 1.0) -> tuple[nn.Module, Task]:
    """Every channel of every group but the first of each comes twice, the second ``factor`` times the first."""
    model, given = plain()
    for name, inside in (("fc1", 8), ("fc2", 6)):
        for leaf in ("weight", "bias"):
            w = model.get_parameter(f"{name}.{leaf}").data
            w[inside // 2 :] = factor * w[: inside // 2]
    return model, given


@pytest.mark.parametrize(
    ("score", "factor"),
    [(DataFree(), 1.0), (DataFree(scaled=True), 2.0), (ActivationCorrelation(), 1.0), (ActivationCorrelation(), 2.0)],
)
def test_merging_twins_loses_nothing(score: DataFree | ActivationCorrelation, factor: float) -> None:
    model, given = duplicated(factor)
    student = Compressed(model).eval()
    for curve in score.curves(student, walk(model, given.example()).labels, given):
        assert curve.errors[len(curve.labels) // 2] == pytest.approx(0, abs=1e-9)
    merged = cut_by(MadeUp(CutShare(0.5, score), Nearest(score)), model, given)
    assert merged.parameter("fc2.weight").shape == (3, 4)
    torch.testing.assert_close(merged(inputs(given)), model(inputs(given)), rtol=1e-7, atol=1e-9)
    plainly = cut_by(CutShare(0.5, score), model, given)
    assert not torch.allclose(plainly(inputs(given)), model(inputs(given)), rtol=1e-2)


def test_twin_filters_with_norms_and_a_residual_addition_merge() -> None:
    model, given = mixed()
    for name in ("conv1.weight", "norm1.weight", "norm1.bias", "norm1.running_mean", "norm1.running_var"):
        tensor = dict(model.named_parameters())[name] if "running" not in name else model.get_buffer(name)
        tensor.data[4] = tensor.data[1]
    for name in ("stem.weight", "stem.bias", "conv2.weight", "conv2.bias", "depthwise.weight", "depthwise.bias"):
        tensor = model.get_parameter(name)
        tensor.data[5] = tensor.data[2]
    score = Only(DataFree(), ("stem*", "conv1*"))
    curves = score.curves(Compressed(model), walk(model, given.example()).labels, given)
    assert [curve.errors[1] for curve in curves] == pytest.approx([0, 0], abs=1e-12)
    merged = cut_by(MadeUp(CutShare(0.2, score), Nearest(DataFree())), model, given)
    assert len(merged.parameter("conv1.weight")) == 4 and len(merged.parameter("stem.weight")) == 5
    torch.testing.assert_close(merged(inputs(given)), model(inputs(given)), rtol=1e-9, atol=1e-9)


def test_the_cost_of_a_pair_is_the_papers() -> None:
    model, given = plain()
    student = Compressed(model).eval()
    labels = walk(model, given.example()).labels
    group, curve = labels.groups()[0], DataFree().curves(student, labels, given)[0]
    w = torch.cat([model.get_parameter("fc1.weight"), model.get_parameter("fc1.bias")[:, None]], 1).detach()
    a = model.get_parameter("fc2.weight").detach().clone()
    alive, total = list(range(8)), 0.0
    for number in range(7):
        cost, j, i = min(
            (float(a[:, j].square().mean() * (w[j] - w[i]).square().sum()), j, i)
            for j in alive for i in alive if i != j
        )  # fmt: skip
        total += cost
        assert curve.labels[number] == group[j]
        assert curve.errors[number + 1] == pytest.approx(total)
        a[:, i] += a[:, j]
        alive.remove(j)


def test_correlated_filters_are_those_of_corrcoef() -> None:
    model, given = mixed()
    student = Compressed(model).eval()
    labels = walk(model, given.example()).labels
    group = next(g for g in labels.groups() if labels.free[g[0]][0][0] == "conv1.weight")
    curve = next(c for c in FilterCorrelation().curves(student, labels, given) if set(c.labels) == set(group))
    rho = torch.corrcoef(model.get_parameter("conv1.weight").detach().flatten(1)).abs().fill_diagonal_(0)
    assert curve.errors[1] == pytest.approx(1 - float(rho.max()))
    assert group.index(curve.labels[0]) in divmod(int(rho.argmax()), len(rho))


class Normed(nn.Module):
    """Two convolutions without padding, each before a norm; the second has no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5)
        self.conv2, self.norm2 = nn.Conv2d(5, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.conv3, self.head = nn.Conv2d(6, 6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu())).relu()
        return self.head(self.conv3(x).relu().mean((2, 3)))


def test_constants_of_channels_without_scale_move_into_the_next_biases() -> None:
    model = randomised(Normed())
    for name in ("norm1", "norm2"):
        model.get_parameter(f"{name}.weight").data[:2] = 0
        model.get_parameter(f"{name}.bias").data[:2] = 0.7
    given = task(model, (1, 6, 6))
    x = inputs(given)
    kept = cut_by(MadeUp(CutShare(0.4, NormScale()), Constants()), model, given)
    assert len(kept.parameter("conv1.weight")) == 3 and len(kept.parameter("norm2.weight")) == 4
    torch.testing.assert_close(kept(x), model(x), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(cut_by(CutShare(0.4, NormScale()), model, given)(x), model(x), rtol=1e-3)


def outputs_of(model: nn.Module, layer: str, x: Tensor) -> Tensor:
    found: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, y: found.append(y.detach()))
    model(x)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_least_squares_is_no_worse_than_rescaling_and_rescaling_than_nothing(share: float) -> None:
    model, given = mixed()
    x = inputs(given)
    for made_by, reader in (("conv1.weight", "conv2"), ("conv3.weight", "fc1"), ("fc1.weight", "fc2")):
        rule = CutShare(share, Only(Greedy(), (made_by,)))
        errors = []
        for each in (rule, MadeUp(rule, Rescaled()), MadeUp(rule, LeastSquares())):
            small = cut_by(each, model, given).base
            errors.append(float((outputs_of(small, reader, x) - outputs_of(model, reader, x)).square().sum()))
        assert errors[2] <= errors[1] * (1 + 1e-2) and errors[1] <= errors[0] * (1 + 1e-4)
        assert errors[2] < 0.9 * errors[0]


def test_greedy_takes_the_least_sum_of_contributions() -> None:
    model, given = mixed()
    student = Compressed(model).eval()
    labels = walk(model, given.example()).labels
    group = next(g for g in labels.groups() if labels.free[g[0]][0][0] == "conv3.weight")
    curve = next(c for c in Greedy(relative=False).curves(student, labels, given) if set(c.labels) == set(group))
    read = outputs_of(model, "norm3", inputs(given)).relu().flatten(2)  # [samples, channels, positions]
    w = model.get_parameter("fc1.weight").detach().reshape(7, 4, 4)
    y = torch.einsum("rjk,njk->jnr", w, read)
    gone_: list[int] = []
    worst = 0.0
    for number in range(len(group)):
        left = [j for j in range(len(group)) if j not in gone_]
        error, j = min((float(y[[*gone_, j]].sum(0).square().sum(1).mean()), j) for j in left)
        gone_.append(j)
        worst = max(worst, error)
        assert curve.labels[number] == group[j]
        assert curve.errors[number + 1] == pytest.approx(worst, rel=1e-5)


def test_the_lasso_is_a_minimum_and_what_is_refitted_is_least_squares() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)
    gram, target = x.T @ x / 40, x.T @ x.sum(1) / 40
    for price in (0.01, 0.3, 2.0):
        beta = lasso(gram, target, price, steps=20_000)
        slope = gram @ beta - target
        torch.testing.assert_close(slope[beta != 0], -price * beta[beta != 0].sign(), rtol=1e-3, atol=1e-4)
        assert bool((slope[beta == 0].abs() <= price + 1e-6).all())
    assert not bool(lasso(gram, target, float(target.abs().max()) + 1e-6).any())
    order = [3, 0, 5, 1, 4, 2]
    for number, error in enumerate(refitted(gram, order, damping=1e-12)[:-1]):
        stays = order[number:]
        solved = torch.linalg.lstsq(x[:, stays], x.sum(1)).solution
        expected = (x.sum(1) - x[:, stays] @ solved).square().mean()
        assert error == pytest.approx(float(expected), rel=1e-6, abs=1e-6)


def test_contributions_are_those_of_samples() -> None:
    torch.manual_seed(0)
    w, x = torch.randn(3, 6, dtype=torch.float64), torch.randn(20, 6, dtype=torch.float64)
    columns = torch.tensor([[0, 3], [1, 4], [2, 5]])
    y = torch.stack([x[:, at] @ w[:, at].T for at in columns])
    torch.testing.assert_close(contributions(w, x.T @ x / 20, columns), torch.einsum("jnr,knr->jk", y, y) / 20)


def test_the_channel_that_explains_most_goes_last_by_the_lasso() -> None:
    model, given = plain()
    student = Compressed(model).eval()
    labels = walk(model, given.example()).labels
    curve, group = Lasso().curves(student, labels, given)[0], labels.groups()[0]
    z = model.get_submodule("fc1")(inputs(given)).relu().detach()
    w = model.get_parameter("fc2.weight").detach()
    y = torch.einsum("rj,nj->jnr", w, z)
    explained = torch.einsum("jnr,nr->j", y, y.sum(0)) / w.norm(dim=0)  # the first to come in as the price falls
    assert curve.labels[-1] == group[int(explained.abs().argmax())]


def test_particles_end_no_worse_than_any_that_was_drawn() -> None:
    model, given = mixed()
    student = Compressed(model).eval()
    rule = ParticleCut(0.3, particles=6, rounds=4, batches=2)
    labels = walk(model, given.example()).labels
    dead = dead_in(rule.decide(student, given), labels)
    for group in labels.groups():
        assert len(set(dead) & set(group)) == round(0.3 * len(group))
    gates = Gates(student, labels, labels.groups())
    order = [label for group in labels.groups() for label in group]
    best = right_share(gates, given, torch.tensor([label not in dead for label in order]), 2)
    at_once = ParticleCut(0.3, particles=6, rounds=0, batches=2)
    first_dead = dead_in(at_once.decide(student, given), labels)
    assert best >= right_share(gates, given, torch.tensor([label not in first_dead for label in order]), 2)
    x = inputs(given)
    zeroed = copy.deepcopy(model)
    masked(labels, dead, zeroed)
    torch.testing.assert_close(cut_by(rule, model, given)(x), zeroed(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stand_in", [Constants(), Nearest(), Nearest(ActivationCorrelation()), Rescaled()], ids=repr)
def test_stand_ins_follow_any_rule(stand_in: StandIn) -> None:
    model, given = mixed()
    rule = Narrow(0.6, Parameters(), Norm(), make_up=False)
    plainly, made_up = cut_by(rule, model, given), cut_by(MadeUp(rule, stand_in), model, given)
    assert {n: p.shape for n, p in plainly.base.named_parameters()} == {
        n: p.shape for n, p in made_up.base.named_parameters()
    }
    assert not torch.allclose(plainly(inputs(given)), made_up(inputs(given)))

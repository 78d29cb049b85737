"""Channels that go: each paper's own mechanism at work, on digits."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.channels.gates import Ablation, GateFisher, Taylor
from featherweight.channels.norms import Norm, Random
from featherweight.channels.propagation import Propagated
from featherweight.channels.reconstruction import Greedy
from featherweight.channels.rules import CutShare
from featherweight.core.compressed import Compressed
from featherweight.core.stage import EditRule, Recipe, Stage
from featherweight.core.task import Example, Task, measure
from featherweight.graph.edits import walk
from featherweight.papers import (
    channel_pruning_lasso,
    data_free_pruning,
    filter_correlation_pruning,
    filter_pruning_l1,
    fisher_pruning,
    noiseout,
    rethinking_smaller_norm,
    structured_pruning_anwar,
    taylor_pruning,
    thinet,
)
from featherweight.run import run
from featherweight.search.channels import Narrow
from featherweight.tasks import find
from featherweight.training.channel_penalties import nearest

DIGITS = find("digits")


def seen(model: nn.Module) -> float:
    """The quality on the first calibration batch."""
    return measure(model, list(DIGITS.calibration_data())[:1], DIGITS.quality)


def cut_by(model: nn.Module, rule: EditRule | None) -> Compressed:
    """Cut, and not trained."""
    student, _ = run(model, DIGITS, Recipe("cut", (Stage("cut", edit=rule),)))
    return student


def untrained(recipe: Recipe) -> Recipe:
    stages = [replace(stage, training=None) for stage in recipe.stages if stage.edit is not None]
    return replace(recipe, stages=tuple(stages))


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def held_out_loss(model: nn.Module) -> float:
    assert DIGITS.selection is not None and DIGITS.loss is not None
    losses = [(DIGITS.loss(model(batch[0]), batch), len(batch[1])) for batch in DIGITS.selection()]
    return float(sum(loss * count for loss, count in losses)) / sum(count for _, count in losses)


def test_the_smallest_filters_go(digits_model: nn.Module) -> None:
    (stage,) = filter_pruning_l1.recipe("digits").stages
    student = cut_by(digits_model, stage.edit)
    before = digits_model.get_parameter("conv1.weight").detach()
    sums = before.abs().sum((1, 2, 3))
    kept = sums.topk(22).indices.sort().values
    assert torch.equal(student.parameter("conv1.weight"), before[kept])


def test_merging_without_data_beats_deleting_the_same_neurons(digits_model: nn.Module) -> None:
    (stage,) = data_free_pruning.recipe("digits", share=0.5).stages
    rule = stage.edit
    merged, deleted = cut_by(digits_model, rule), cut_by(digits_model, rule.rule)  # type: ignore[union-attr]
    assert size(merged.base) == size(deleted.base) < 0.6 * size(digits_model)
    assert held_out_loss(merged) < held_out_loss(deleted)


@pytest.mark.long
@pytest.mark.parametrize("paper", [thinet, channel_pruning_lasso], ids=["thinet", "lasso"])
def test_reconstruction_needs_no_training_to_be_near(paper: object, digits_model: nn.Module) -> None:
    recipe = untrained(paper.recipe("digits", share=0.4))  # type: ignore[attr-defined]
    student, coverage = run(digits_model, DIGITS, recipe)
    assert [each.stage for each in coverage] == [f"cut {n}.weight" for n in ("conv1", "conv2", "conv3", "fc1")]
    drawn = cut_by(digits_model, CutShare(0.4, Random()))
    assert size(drawn.base) == size(student.base)
    assert held_out_loss(student) < 0.5 * held_out_loss(drawn)


def test_folding_correlated_neurons_beats_deleting_them(digits_model: nn.Module) -> None:
    first = noiseout.recipe("digits", share=0.75, rounds=1).stages[0].edit
    folded, deleted = cut_by(digits_model, first), cut_by(digits_model, first.rule)  # type: ignore[union-attr]
    assert folded.parameter("fc1.weight").shape == (16, 256)  # dense layers alone
    assert folded.parameter("conv3.weight").shape == digits_model.get_parameter("conv3.weight").shape
    assert held_out_loss(folded) < held_out_loss(deleted)


def test_a_penalty_makes_pairs_of_filters_alike(digits_model: nn.Module) -> None:
    recipe = filter_correlation_pruning.recipe("digits", weight=3.0, epochs=(4, 1))
    student, _ = run(digits_model, DIGITS, replace(recipe, stages=recipe.stages[:1]))
    for name in ("conv2.weight", "fc1.weight"):
        before, after = (nearest(model.get_parameter(name).detach(), 0.25) for model in (digits_model, student.base))
        assert float(after.mean()) > float(before.mean()) + 0.05


@pytest.mark.long
def test_scores_of_the_loss_agree_with_the_oracle_better_than_chance(digits_model: nn.Module) -> None:
    student = Compressed(digits_model).eval()
    labels = walk(student.base, DIGITS.example()).labels
    oracle = Ablation(batches=2, temperature=4.0).scores(student, labels, labels.groups(), DIGITS)
    scores = {
        taylor_pruning: Taylor(batches=2, temperature=4.0),
        fisher_pruning: GateFisher(batches=2, temperature=4.0),
    }
    for paper, score in scores.items():
        found = score.scores(student, labels, labels.groups(), DIGITS)
        agreements = []
        for ours, true in zip(found, oracle, strict=True):
            assert ours is not None and true is not None
            ranks = torch.stack([each.argsort().argsort().double() for each in (ours, true)])
            agreements.append(float(torch.corrcoef(ranks)[0, 1]))
        assert min(agreements) > 0.7  # of four groups
        rule = paper.recipe("digits").stages[0].edit
        assert isinstance(rule, Narrow) and rule.share**5 == pytest.approx(0.3)


def test_importance_of_final_responses_keeps_more_than_chance(digits_model: nn.Module) -> None:
    loss = {
        each: held_out_loss(cut_by(digits_model, CutShare(0.5, each))) for each in (Propagated(), Random(), Greedy())
    }
    assert loss[Propagated()] < loss[Random()]
    assert loss[Greedy()] < loss[Random()]


def test_particles_find_a_better_set_than_the_first_draws(digits_model: nn.Module) -> None:
    recipe = structured_pruning_anwar.recipe("digits", rounds=1)
    rule = replace(recipe.stages[0].edit, particles=8, rounds=4)  # type: ignore[type-var]
    drawn = replace(rule, rounds=0, particles=2)  # type: ignore[type-var]
    best, first = (seen(cut_by(digits_model, each)) for each in (rule, drawn))
    assert best > first  # by what the search looks at; a hundred samples say little of others


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        return self.head(x.mean((2, 3)))


def test_scales_become_sparse_and_constants_are_absorbed() -> None:
    torch.manual_seed(0)
    model = Normed()
    assert DIGITS.train is not None
    data = list(DIGITS.train())[:8]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for batch in data * 6:
        optimizer.zero_grad()
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()
    task = Task(
        "normed", Normed, lambda: model, lambda: Example((data[0][0][:2],)), train=lambda: data,
        loss=lambda outputs, batch: F.cross_entropy(outputs, batch[1]),
    )  # fmt: skip
    recipe = rethinking_smaller_norm.recipe(share=0.4, price=0.03, rounds=40, epochs=(8, 1))
    shrink, cut = recipe.stages
    student, _ = run(model, task, replace(recipe, stages=(shrink,)))
    scales = torch.cat([student.weight(f"bn{number}.weight").detach() for number in (1, 2)])
    assert int((scales == 0).sum()) >= 3
    x = data[0][0]
    shrunk = student.finished()
    absorbed, _ = run(shrunk, task, replace(recipe, stages=(replace(cut, training=None),)))
    dropped_rule = cut.edit.rule  # type: ignore[union-attr]
    dropped, _ = run(shrunk, task, replace(recipe, stages=(Stage("cut", edit=dropped_rule),)))
    shrunk.eval()
    errors = [float((small(x) - shrunk(x)).square().mean().detach()) for small in (absorbed, dropped)]
    assert errors[0] < errors[1]


def test_the_norm_of_filters_is_no_worse_than_chance(digits_model: nn.Module) -> None:
    assert held_out_loss(cut_by(digits_model, CutShare(0.3, Norm()))) < held_out_loss(
        cut_by(digits_model, CutShare(0.3, Random()))
    )

"""Prunings that take decisions back: each paper's own mechanism at work, on digits."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.stage import Objective, Recipe, Tap, Term
from featherweight.core.task import measure
from featherweight.papers import deeptwist, drop_pruning, dsd, dynamic_network_surgery, sun_sparse_face
from featherweight.run import run
from featherweight.schemes.lowrank import LowRank, Rank
from featherweight.schemes.sparse import Fraction, Sparse, SparseCode
from featherweight.schemes.uniform import Uniform
from featherweight.tasks import find
from featherweight.training.objectives import TaskLoss

DIGITS = find("digits")


@dataclass(frozen=True)
class Record(Term):
    """Adds nothing to the loss; keeps the weight and the support of one parameter before every step."""

    name: str = ""
    weights: list[Tensor] = field(default_factory=list)
    supports: list[Tensor] = field(default_factory=list)

    def __call__(self, tap: Tap) -> Tensor:
        student = tap.student
        assert isinstance(student, Compressed)
        self.weights.append(student.parameter(self.name).detach().clone())
        code = student.codes[self.name]
        if isinstance(code, SparseCode):
            self.supports.append(code.support.clone())
        return torch.zeros(())


def recorded(recipe: Recipe, name: str) -> tuple[Recipe, Record]:
    """The recipe with a record of its first stage."""
    record = Record(name=name)
    first = replace(recipe.stages[0], objective=Objective((TaskLoss(), record)))
    return replace(recipe, stages=(first, *recipe.stages[1:])), record


def quality(model: nn.Module) -> float:
    assert DIGITS.selection is not None
    return measure(model, DIGITS.selection(), DIGITS.quality)


@torch.no_grad()
def held_out_loss(model: nn.Module) -> float:
    assert DIGITS.selection is not None and DIGITS.loss is not None
    losses = [(DIGITS.loss(model(batch[0]), batch), len(batch[1])) for batch in DIGITS.selection()]
    return float(sum(loss * count for loss, count in losses)) / sum(count for _, count in losses)


@pytest.mark.long
def test_surgery_splices_weights_back(digits_model: nn.Module) -> None:
    recipe, record = recorded(dynamic_network_surgery.recipe("digits", epochs=(12, 4)), "conv3.weight")
    student, _ = run(digits_model, DIGITS, recipe)
    supports = torch.stack(record.supports)
    pruned_once, alive = ~supports.all(0), supports[-1]
    assert int((pruned_once & alive).sum()) > 50  # pruned once, and alive at the end
    # What comes back has grown, by more than the band: what is pruned now and what is alive now overlap.
    now = record.weights[-1].abs()
    assert float(now[alive].min()) < float(now[~alive].max())
    late = [int((a ^ b).sum()) for a, b in zip(supports, supports[1:], strict=False)]
    assert sum(late[: len(late) // 2]) > sum(late[len(late) // 2 :])  # changes become rarer
    assert int(alive.sum()) < 0.2 * alive.numel()
    assert quality(student) > 97


@pytest.mark.long
def test_drop_in_returns_some_and_the_end_is_certain(digits_model: nn.Module) -> None:
    recipe, record = recorded(drop_pruning.recipe("digits", epochs=24), "conv3.weight")
    student, _ = run(digits_model, DIGITS, recipe)
    supports = torch.stack(record.supports)
    returned = ~supports[:-1] & supports[1:]
    assert int(returned.sum()) > 1000
    assert int((~supports.all(0) & supports[-1]).sum()) > 10  # and some of them stay to the end
    # They come back with the value that they left with, but for what momentum still moved.
    step = int(returned.flatten(1).any(1).nonzero()[0])
    assert float(record.weights[step + 1][returned[step]].abs().min()) > 0
    zeros = int((student.weight("conv3.weight") == 0).sum())
    assert zeros == round(0.9 * supports[0].numel())
    assert quality(student) > 97


@pytest.mark.long
def test_dsd_ends_dense_and_better(digits_model: nn.Module) -> None:
    recipe, record = recorded(dsd.recipe("digits", epochs=(10, 6)), "conv3.weight")
    student, _ = run(digits_model, DIGITS, recipe)
    pruned = ~record.supports[-1]
    assert int(pruned.sum()) == round(0.4 * pruned.numel())
    end = student.weight("conv3.weight")
    assert float((end[pruned] != 0).double().mean()) > 0.9  # no longer zero, but where no gradient comes
    assert float(end[pruned].abs().mean()) < 0.5 * float(end[~pruned].abs().mean())  # but from zero
    assert held_out_loss(student) < held_out_loss(digits_model)
    assert quality(student) >= quality(digits_model)


@pytest.mark.long
def test_deeptwist_leaves_weights_free_between_distortions(digits_model: nn.Module) -> None:
    for distortion, least in ((Sparse(Fraction(0.8)), 97.0), (Uniform(3), 96.0), (LowRank(Rank(12)), 97.0)):
        recipe, record = recorded(deeptwist.recipe("digits", distortion=distortion, epochs=6), "conv3.weight")
        student, _ = run(digits_model, DIGITS, recipe)
        errors = torch.tensor([float((w - distortion.project(w).decode()).norm() / w.norm()) for w in record.weights])
        each = len(errors) // 6
        assert float(errors[::each].max()) < 1e-3  # on the set after each distortion
        assert float(errors[each - 1 :: each][:-1].min()) > 5e-3  # and off it before the next
        end = student.weight("conv3.weight")
        torch.testing.assert_close(distortion.project(end).decode(), end, rtol=1e-3, atol=1e-4)
        assert quality(student) > least


@pytest.mark.long
def test_layers_are_sparsified_from_the_last_to_the_first(digits_model: nn.Module) -> None:
    recipe = sun_sparse_face.recipe("digits", epochs=6)
    student, coverage = run(digits_model, DIGITS, recipe)
    order = [name for each in coverage if each.stage.startswith("sparsify") for name in each.touched]
    assert order == ["fc2.weight", "fc1.weight", "conv3.weight"]
    for name, kept in sun_sparse_face.KEPT["digits"].items():
        w = student.weight(str(name))
        assert abs(int((w != 0).sum()) - kept * w.numel()) <= 2
    # Correlation decides, not magnitude: many of the largest weights are gone.
    original = digits_model.get_parameter("fc2.weight")
    largest = Sparse(Fraction(0.4)).project(original.detach()).support
    assert float((student.weight("fc2.weight") == 0)[largest].double().mean()) > 0.2
    assert quality(student) > 96

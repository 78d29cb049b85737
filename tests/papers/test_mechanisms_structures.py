"""Prunings of groups: what each paper says that dies together does, on digits."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.plan import plan
from featherweight.core.stage import Recipe
from featherweight.core.task import measure
from featherweight.papers import group_brain_damage, scalpel, sparse_granularity, structured_sparsity_learning
from featherweight.papers.scalpel import Parallelism
from featherweight.run import run
from featherweight.schemes.grouped import GroupSparse
from featherweight.schemes.sparse import SparseCode
from featherweight.schemes.structures import Blocks, Box, Columns, Filters, Norm
from featherweight.schemes.supports import BoxSparseCode
from featherweight.tasks import find

DIGITS = find("digits")
CONVOLUTIONS = ("conv1.weight", "conv2.weight", "conv3.weight")


def carried_out(model: nn.Module, recipe: Recipe) -> Compressed:
    return run(model, DIGITS, recipe)[0]


def untrained(recipe: Recipe) -> Recipe:
    """The stages that project, with nothing learned."""
    return replace(recipe, stages=tuple(replace(s, training=None) for s in recipe.stages if s.schemes))


def quality(model: nn.Module) -> float:
    assert DIGITS.selection is not None
    return measure(model, DIGITS.selection(), DIGITS.quality)


@torch.no_grad()
def loss(model: nn.Module) -> float:
    assert DIGITS.selection is not None and DIGITS.loss is not None
    losses = [float(DIGITS.loss(model.eval()(batch[0]), batch)) for batch in DIGITS.selection()]
    return sum(losses) / len(losses)


def alive(weight: Tensor, dimension: int) -> Tensor:
    """Which filters (0) or channels (1) are not all zero."""
    return weight.detach().transpose(0, dimension).flatten(1).abs().sum(1) > 0


@pytest.mark.long
def test_columns_that_are_drawn_to_zero_can_be_damaged(digits_model: nn.Module) -> None:
    recipe = group_brain_damage.recipe("digits", epochs=(20, 10))
    draw, damage = recipe.stages
    drawn = carried_out(digits_model, replace(recipe, stages=(draw,)))
    for name in CONVOLUTIONS[1:]:
        norms = [
            w.detach().flatten(1).norm(dim=0).sort().values for w in (drawn.parameter(name), _of(digits_model, name))
        ]
        least = [float(each[: round(0.75 * len(each))].square().sum() / each.square().sum()) for each in norms]
        assert least[0] < 0.5 * least[1]  # of the energy, in the three columns of four that are to go
    damaged = [
        carried_out(model, replace(recipe, stages=(replace(damage, training=None),)))
        for model in (drawn.base, digits_model)
    ]
    assert loss(damaged[0]) < 0.7 * loss(damaged[1])
    student = carried_out(drawn.base, replace(recipe, stages=(damage,)))
    for name in CONVOLUTIONS:
        code = student.codes[name]
        assert isinstance(code, BoxSparseCode) and code.box == Box((0, 1, 1, 1))
        columns = code.support.flatten(1)
        assert bool((columns.all(0) == columns.any(0)).all())
        assert int(columns.any(0).sum()) == columns.shape[1] - round(0.75 * columns.shape[1])
    assert quality(student) > 95 and "fc1.weight" not in student.codes


def _of(model: nn.Module, name: str) -> Tensor:
    return model.get_parameter(name)


@pytest.mark.long
def test_filters_die_with_the_channels_that_they_feed(digits_model: nn.Module) -> None:
    recipe = structured_sparsity_learning.recipe("digits", epochs=(30, 8))
    student = carried_out(digits_model, recipe)
    second, third = (student.parameter(name) for name in CONVOLUTIONS[1:])
    filters, channels = alive(second, 0), alive(third, 1)
    assert int(filters.sum()) < 45 and int(channels.sum()) < 45  # of 64
    assert float((filters == channels).float().mean()) > 0.75  # the lasso finds both ends of a dead map
    sizes = _of(digits_model, "conv2.weight").detach().square().mean((1, 2, 3)).sqrt()
    assert float(sizes.min()) > 0.2 * float(sizes.square().mean().sqrt())  # before, no filter was near to zero
    assert quality(student) > 97


@pytest.mark.long
def test_filter_shapes_are_columns(digits_model: nn.Module) -> None:
    recipe = structured_sparsity_learning.recipe("digits", structures=(Columns(norm=Norm.RMS),), epochs=(20, 2))
    weight = carried_out(digits_model, recipe).parameter("conv3.weight").detach().flatten(1)
    assert int((weight.abs().sum(0) > 0).sum()) < 0.6 * weight.shape[1]


@pytest.mark.long
@pytest.mark.parametrize("parallelism", Parallelism)
def test_what_is_pruned_follows_the_hardware(parallelism: Parallelism, digits_model: nn.Module) -> None:
    """Groups of SIMD width, nodes, or one of them a kind of layer; the classes' nodes all stay."""
    recipe = scalpel.recipe("digits", parallelism=parallelism, width=4, epochs=(10, 2))
    structures = {
        name: scheme.structure
        for name, scheme in plan(digits_model, recipe).stages[-1].sites.items()
        if isinstance(scheme, GroupSparse)
    }
    simd, node = Blocks(1, 4, norm=Norm.RMS), Filters(norm=Norm.RMS)
    expected = {
        Parallelism.LOW: [simd] * 5,
        Parallelism.MODERATE: [node] * 3 + [simd] * 2,
        Parallelism.HIGH: [node] * 4,
    }[parallelism]
    assert list(structures.values()) == expected
    assert (len(recipe.stages) == 1) is (parallelism is Parallelism.LOW)
    *draw, prune = recipe.stages
    drawn = carried_out(digits_model, replace(recipe, stages=tuple(draw))).base if draw else digits_model
    student = carried_out(drawn, untrained(replace(recipe, stages=(prune,))))
    for name, code in student.codes.items():
        assert isinstance(code, BoxSparseCode)
        dense = drawn.get_parameter(name).detach()
        groups = dense.flatten(1) if structures[name] == node else dense.flatten(1).split(4, 1)
        parts = [groups] if isinstance(groups, Tensor) else list(groups)
        sizes = torch.stack([part.square().mean(1).sqrt() for part in parts], 1)
        threshold = (0.2 if structures[name] == node else 0.9) * float(sizes.double().square().mean().sqrt())
        kept = torch.stack([part.abs().amax(1) > 0 for part in _like(parts, code.decode().flatten(1))], 1)
        assert torch.equal(kept, sizes > threshold)


def _like(parts: list[Tensor], matrix: Tensor) -> list[Tensor]:
    return list(matrix.split([part.shape[1] for part in parts], 1))


def test_the_finer_the_grain_the_less_is_lost_and_the_more_positions_are_stored(digits_model: nn.Module) -> None:
    """At one share and without learning: what goes has less energy, entry by entry, than kernel by kernel."""
    errors, bits = [], []
    for structure in sparse_granularity.GRANULARITIES.values():
        recipe = untrained(sparse_granularity.recipe("digits", structure=structure, share=0.5, linear=0.5))
        student = carried_out(digits_model, recipe)
        codes = [student.codes[name] for name in CONVOLUTIONS]
        errors.append(
            sum(float((_of(digits_model, n).detach() - student.parameter(n)).square().sum()) for n in CONVOLUTIONS)
        )
        bits.append(sum(next(code.streams()).values.numel() for code in codes))
        assert all(isinstance(code, SparseCode) and 0.45 < float(code.support.float().mean()) < 0.55 for code in codes)
        assert type(student.codes["fc1.weight"]) is SparseCode
    assert errors == sorted(errors) and errors[0] < 0.5 * errors[-1]
    entries = 9 * (32 + 32 * 64 + 64 * 64)
    assert bits == [entries, entries // 3, entries // 9, 32 + 64 + 64]


@pytest.mark.long
def test_vectors_are_pruned_and_learn(digits_model: nn.Module) -> None:
    student = carried_out(digits_model, sparse_granularity.recipe("digits", epochs=24))
    code = student.codes["conv3.weight"]
    assert isinstance(code, BoxSparseCode) and float(code.support.float().mean()) == pytest.approx(0.3, abs=0.01)
    assert bool((code.support.all(3) == code.support.any(3)).all())
    assert quality(student) > 97

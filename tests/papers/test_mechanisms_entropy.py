"""What the papers on entropy-constrained and least-variance codes are about, at work on the digits."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.core.compressed import Compressed
from featherweight.core.stage import MagnitudeRule, MetricRule, Recipe, everywhere
from featherweight.core.task import measure
from featherweight.metrics.diagonal import Fisher
from featherweight.papers import hessian_weighted_ecsq, zipml
from featherweight.run import run
from featherweight.schemes.codebook import Codebook, CodebookCode, Unbiased
from featherweight.schemes.entropy import Cells, EntropyConstrained, MeanBits
from featherweight.schemes.joint import Joint
from featherweight.schemes.kmeans import spread
from featherweight.schemes.sparse import Magnitude, Sparse, SparseCode
from featherweight.tasks import find
from featherweight.training.stochastic import rounded_at_random

DIGITS = find("digits")


def weight_codes(student: Compressed) -> dict[str, CodebookCode]:
    codes = {name: code.values for name, code in student.codes.items() if isinstance(code, SparseCode)}
    assert all(isinstance(code, CodebookCode) for code in codes.values()) and len(codes) == 5
    return codes  # type: ignore[return-value]


def entropy(indices: Tensor) -> float:
    shares = indices.unique(return_counts=True)[1].double() / indices.numel()
    return float(-(shares * shares.log2()).sum())


@pytest.mark.parametrize("cells", Cells)
def test_all_layers_share_one_codebook_that_learns(digits_model: nn.Module, cells: Cells) -> None:
    recipe = hessian_weighted_ecsq.recipe("digits", bits=2.0, cells=cells, epochs=(6, 2))
    student, _ = run(digits_model, DIGITS, recipe)
    codes = weight_codes(student)
    centroids = [code.centroids.tensors()["values"] for code in codes.values()]
    assert all(each is centroids[0] for each in centroids)
    together = torch.cat([code.indices for code in codes.values()])
    assert 1.5 < entropy(together) <= 2.0 if cells is Cells.BINS else 1.5 < entropy(together) <= 2.2
    total = sum(entropy(code.indices) * code.indices.numel() for code in codes.values())
    assert total <= 2.0 * together.numel() + 1e-6, "each layer has a table of counts of its own"
    untaught, _ = run(
        digits_model, DIGITS, replace(recipe, stages=(recipe.stages[0], replace(recipe.stages[1], training=None)))
    )
    before = next(iter(weight_codes(untaught).values())).centroids.decode()
    assert before.shape == centroids[0].shape and not torch.equal(before, centroids[0])
    assert measure(student, DIGITS.selection(), DIGITS.quality) > 95  # type: ignore[misc]
    assert measure(student, DIGITS.selection(), DIGITS.quality) >= measure(  # type: ignore[misc]
        untaught,
        DIGITS.selection(),
        DIGITS.quality,  # type: ignore[misc]
    )
    loaded, _ = file.load(file.encode(student), DIGITS.architecture())
    first, *others = (code.centroids.tensors()["values"] for code in weight_codes(loaded).values())
    assert all(each is first for each in others)


def loss(model: nn.Module) -> float:
    assert DIGITS.train is not None and DIGITS.loss is not None
    with torch.no_grad():
        return sum(float(DIGITS.loss(model(batch[0]), batch)) for batch in DIGITS.calibration_data())


def test_the_hessian_weighs_layers_so_that_less_is_lost(digits_model: nn.Module) -> None:
    """At equal bits the loss rises less where errors are weighed by its curvature: the paper's reason for it."""
    scaled = copy.deepcopy(digits_model)
    rises = {}
    for bits in (1.0, 1.5):
        for metric in (Fisher(), MagnitudeRule()):
            student = shared(scaled, bits, Cells.ITERATED, metric)
            rises[bits, type(metric)] = loss(student) - loss(scaled)
        assert rises[bits, Fisher] < 0.7 * rises[bits, MagnitudeRule]


def shared(model: nn.Module, bits: float, cells: Cells, metric: MetricRule) -> Compressed:
    scheme = Sparse(Magnitude()).then(Joint(EntropyConstrained(MeanBits(bits), cells)))
    return run(model, DIGITS, Recipe("shared", (everywhere("share", scheme, metric=metric),)))[0]


def test_iterated_cells_are_nearer_than_bins_of_the_same_bits(digits_model: nn.Module) -> None:
    names = [name for name, p in digits_model.named_parameters() if p.ndim > 1]
    metrics = Fisher().measure(Compressed(digits_model), names, DIGITS)
    errors = []
    for cells in Cells:
        student = shared(digits_model, 2.0, cells, Fisher())
        pairs = ((metrics[name], digits_model.get_parameter(name), student.weight(name)) for name in names)
        errors.append(sum(float(metric.distance(w.detach(), v.detach())) for metric, w, v in pairs))
    assert errors[0] < 0.8 * errors[1]


def test_levels_of_least_variance_learn_with_the_weights(digits_model: nn.Module) -> None:
    recipe = zipml.recipe("digits", levels=3)
    short = replace(recipe, stages=(replace(recipe.stages[0], training=replace(recipe.stages[0].training, epochs=10)),))
    student, _ = run(digits_model, DIGITS, short)
    assert measure(student, DIGITS.selection(), DIGITS.quality) > 95  # type: ignore[misc]
    for name, code in student.codes.items():
        assert isinstance(code, CodebookCode) and code.size == 3
        first = Codebook(3, Unbiased()).project(digits_model.get_parameter(name).detach())
        assert not torch.equal(first.centroids.decode(), code.centroids.decode())


def test_rounding_to_these_levels_varies_the_outputs_less_than_a_uniform_grid(digits_model: nn.Module) -> None:
    """Both are right in the mean; at eight levels the mean squared change of the logits tells them apart."""
    inputs = next(iter(DIGITS.calibration_data()))[0][:64]
    generator = torch.Generator().manual_seed(0)
    changed = {}
    for name in ("uniform", "least variance"):
        total = 0.0
        for _ in range(6):
            model = copy.deepcopy(digits_model)
            for parameter in model.parameters():
                w = parameter.data
                if w.ndim > 1:
                    even = spread(w.min(), w.max(), 8)
                    even[-1] = w.max()
                    levels = even if name == "uniform" else Codebook(8, Unbiased())._centroids(w.flatten(), None)
                    parameter.data = rounded_at_random(w, levels, generator)
            with torch.no_grad():
                total += float((model(inputs) - digits_model(inputs)).square().mean())
        changed[name] = total
    assert changed["least variance"] < 0.8 * changed["uniform"]

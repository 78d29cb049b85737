"""What the papers on entropy-constrained and least-variance codes are about, at work on the digits."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.core.compressed import Compressed
from featherweight.core.stage import MagnitudeRule, MetricRule, Recipe, Stage
from featherweight.core.task import measure
from featherweight.metrics.diagonal import Curvature
from featherweight.papers import hessian_weighted_ecsq, zipml
from featherweight.run import run
from featherweight.schemes.codebook import Codebook, CodebookCode, Unbiased
from featherweight.schemes.entropy import Cells, EntropyConstrained, MeanBits
from featherweight.schemes.joint import Joint
from featherweight.schemes.kmeans import spread
from featherweight.schemes.sparse import SparseCode
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


@pytest.mark.long
def test_all_layers_share_one_codebook_that_learns(digits_model: nn.Module) -> None:
    recipe = hessian_weighted_ecsq.recipe("digits", bits=2.0, epochs=(4, 2))
    student, _ = run(digits_model, DIGITS, recipe)
    codes = weight_codes(student)
    centroids = [code.centroids.tensors()["values"] for code in codes.values()]
    assert all(each is centroids[0] for each in centroids)
    total = sum(entropy(code.indices) * code.indices.numel() for code in codes.values())
    entries = sum(code.indices.numel() for code in codes.values())
    assert 1.2 * entries < total <= 2.0 * entries, "each layer has a table of counts of its own"
    untaught, _ = run(digits_model, DIGITS, replace(recipe, stages=tuple(map(fixed, recipe.stages))))
    assert loss(student) < 0.97 * loss(untaught), "the shared values learn"
    loaded, _ = file.load(file.encode(student), DIGITS.architecture())
    first, *others = (code.centroids.tensors()["values"] for code in weight_codes(loaded).values())
    assert all(each is first for each in others)


def fixed(stage: Stage) -> Stage:
    """The stage without learning where it shares values."""
    return replace(stage, training=None) if stage.name == "share" else stage


def loss(model: nn.Module) -> float:
    assert DIGITS.train is not None and DIGITS.loss is not None
    with torch.no_grad():
        return sum(float(DIGITS.loss(model(batch[0]), batch)) for batch in DIGITS.calibration_data())


@pytest.mark.long
def test_the_curvature_makes_layers_of_any_scale_alike(digits_model: nn.Module) -> None:
    """A network of the same outputs, one layer ten times as large and the next a tenth: the paper's reason for it."""
    scaled = copy.deepcopy(digits_model)
    with torch.no_grad():
        scaled.fc1.weight.mul_(10)
        scaled.fc1.bias.mul_(10)
        scaled.fc2.weight.div_(10)
    weighed, plain = (linear(scaled, Cells.ITERATED, metric) for metric in (Curvature(), MagnitudeRule()))
    assert loss(weighed) - loss(scaled) < 0.1 * (loss(plain) - loss(scaled))


def linear(model: nn.Module, cells: Cells, metric: MetricRule) -> Compressed:
    """The two linear layers at 2 bits a weight, one codebook for both."""
    stage = Stage("share", {"fc*.weight": Joint(EntropyConstrained(MeanBits(2), cells))}, metric=metric)
    return run(model, DIGITS, Recipe("linear", (stage,)))[0]


@pytest.mark.long
def test_iterated_cells_are_nearer_than_bins_of_the_same_bits(digits_model: nn.Module) -> None:
    metrics = Curvature().measure(Compressed(digits_model), ["fc1.weight", "fc2.weight"], DIGITS)
    errors = []
    for cells in Cells:
        student = linear(digits_model, cells, Curvature())
        pairs = ((metric, digits_model.get_parameter(name), student.weight(name)) for name, metric in metrics.items())
        errors.append(sum(float(metric.distance(w.detach(), v.detach())) for metric, w, v in pairs))
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.long
def test_levels_of_least_variance_learn_with_the_weights(digits_model: nn.Module) -> None:
    recipe = zipml.recipe("digits", levels=5)
    short = replace(recipe, stages=(replace(recipe.stages[0], training=replace(recipe.stages[0].training, epochs=10)),))
    student, _ = run(digits_model, DIGITS, short)
    assert measure(student, DIGITS.selection(), DIGITS.quality) > 93  # type: ignore[misc]
    for name, code in student.codes.items():
        assert isinstance(code, CodebookCode) and code.size == 5
        first = Codebook(5, Unbiased()).project(digits_model.get_parameter(name).detach())
        assert not torch.equal(first.centroids.decode(), code.centroids.decode())


@pytest.mark.long
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

"""What the papers on compression without a training run are about, at work on the digits."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from featherweight import file
from featherweight.core.compressed import Compressed
from featherweight.core.stage import MagnitudeRule, OneShot, Recipe, Stage, Training, everywhere
from featherweight.core.task import measure
from featherweight.metrics.diagonal import Curvature
from featherweight.metrics.hessian import Kronecker
from featherweight.metrics.responses import LayerResponses, Responses
from featherweight.papers import (
    adaround,
    brecq,
    net_trim,
    optimal_brain_damage,
    product_quantization,
    q_cnn,
    qdrop,
    rate_distortion_compression,
    statistical_nlu_compression,
    vector_quantization_cnn,
    watersic,
)
from featherweight.run import run
from featherweight.schemes.codebook import Codebook, Optimal
from featherweight.schemes.plus import Plus
from featherweight.schemes.product import Product, ProductCode
from featherweight.schemes.sparse import Fraction, Sparse
from featherweight.schemes.uniform import Fit, PerChannel, Uniform, UniformCode
from featherweight.search.budget import nearness
from featherweight.solvers.reconstruction import BlockReconstruction
from featherweight.solvers.rounding import AdaRound
from featherweight.tasks import find

DIGITS = find("digits")


def test_product_quantization_is_loaded_with_its_codebooks(digits_model: nn.Module) -> None:
    student, _ = run(digits_model, DIGITS, product_quantization.recipe("digits"))
    assert all(isinstance(code, ProductCode) for code in student.codes.values()) and len(student.codes) == 5
    data = file.encode(student, number=DIGITS.number)
    loaded, _ = file.load(data, DIGITS.architecture())
    for name, code in student.codes.items():
        assert torch.equal(loaded.weight(name), code.decode())
    assert measure(loaded, DIGITS.selection(), DIGITS.quality) > 95  # type: ignore[misc]
    books = sum(code.codebooks.decode().numel() * 2 for code in student.codes.values())  # type: ignore[attr-defined]
    assert len(data) > books, "codebooks are counted"


def test_codes_of_dense_layers_side_by_side(digits_model: nn.Module) -> None:
    """Gong et al. 2014: the dense layers alone; what residual quantization adds takes most of the error away."""
    errors = {}
    for name, scheme in {
        "segments": vector_quantization_cnn.SEGMENTS,
        "scalars": vector_quantization_cnn.KMEANS,
        "rows": Product(None, 16),
        "rows and residuals": Plus(Product(None, 16), Product(None, 16)),
        "signs": vector_quantization_cnn.SIGNS,
    }.items():
        student, (coverage, _) = run(digits_model, DIGITS, vector_quantization_cnn.recipe("digits", scheme=scheme))
        assert set(coverage.touched) == {"fc1.weight", "fc2.weight"}
        assert torch.equal(student.weight("conv1.weight"), digits_model.conv1.weight.half().float())  # type: ignore[operator, union-attr]
        errors[name] = coverage.touched["fc1.weight"]
    assert errors["segments"] < 0.9 * errors["signs"]
    assert errors["rows and residuals"] < 0.95 * errors["rows"]
    assert errors["scalars"] < 0.3 < errors["segments"]


@pytest.mark.long
def test_layers_are_fitted_to_outputs_and_make_up_for_each_other(digits_model: nn.Module) -> None:
    """Wu et al. 2016: weights are farther than by k-means, outputs nearer; nearer still with error correction."""
    scheme = Product(4, 6)
    plain = Recipe("plain", (everywhere("quantize", scheme),))
    recipes = [plain] + [q_cnn.recipe("digits", size=6, corrected=corrected) for corrected in (False, True)]
    weights, outputs = [], []
    for recipe in recipes:
        student, (coverage,) = run(digits_model, DIGITS, recipe)
        assert all(isinstance(code, ProductCode) for code in student.codes.values())
        weights.append(coverage.touched["conv3.weight"])
        outputs.append(100 - nearness(student, digits_model, DIGITS))
    assert weights[0] < weights[1]
    assert outputs[2] < 0.9 * outputs[1] and outputs[1] < 0.6 * outputs[0]
    assert measure(student, DIGITS.selection(), DIGITS.quality) > 97  # type: ignore[misc]


@pytest.mark.long
def test_rounding_that_is_learned_keeps_outputs_nearer(digits_model: nn.Module) -> None:
    """Nagel et al. 2020: weights are farther than by rounding to nearest, at most a step each, outputs much nearer."""
    learned = adaround.recipe("digits", bits=3).stages[0]
    quick = replace(learned, projector=AdaRound(steps=400, lr=0.04))
    nearest = replace(learned, projector=None, metric=MagnitudeRule())
    away, outputs, codes = [], [], []
    for stage in (nearest, quick):
        student, (coverage,) = run(digits_model, DIGITS, Recipe("round", (stage,)))
        away.append(coverage.touched["conv3.weight"])
        outputs.append(100 - nearness(student, digits_model, DIGITS))
        codes.append(student.codes["conv1.weight"])
    assert away[0] < away[1] and outputs[1] < 0.6 * outputs[0]
    first, second = codes
    assert isinstance(first, UniformCode) and isinstance(second, UniformCode)
    assert torch.equal(first.scales.decode(), second.scales.decode())
    assert (first.levels - second.levels).abs().max() == 1
    assert measure(student, DIGITS.selection(), DIGITS.quality) > 98  # type: ignore[misc]


@pytest.mark.long
def test_rounding_behind_quantized_activations_that_are_dropped_at_random(digits_model: nn.Module) -> None:
    """Li et al. 2021 and Wei et al. 2022, 2 bits: learned by blocks, outputs are nearer; with activations too."""
    for made in (brecq.recipe("digits"), qdrop.recipe("digits", bits=2)):
        (stage,) = made.stages
        assert isinstance(stage.projector, BlockReconstruction)
        outputs = []
        for solver in (None, replace(stage.projector, steps=150, lr=0.05)):
            student, _ = run(digits_model, DIGITS, Recipe("round", (replace(stage, projector=solver),)))
            outputs.append(100 - nearness(student, digits_model, DIGITS))
        assert outputs[1] < 0.75 * outputs[0]


def test_damage_by_curvature_raises_the_loss_less_than_by_magnitude(digits_model: nn.Module) -> None:
    """LeCun et al. 1990, figure 1: without retraining, at the same number of deletions."""
    (stage,) = optimal_brain_damage.recipe("digits", share=0.5).stages
    rises = []
    for metric in (MagnitudeRule(), Curvature(), stage.metric):
        untaught = replace(stage, metric=metric, training=None, schedule=OneShot())
        student, _ = run(digits_model, DIGITS, Recipe("prune", (untaught,)))
        kept = sum(int((student.weight(name) != 0).sum()) for name in student.codes)
        assert kept == pytest.approx(0.5 * 72_608, abs=1)
        rises.append(loss(student) - loss(digits_model))
    assert rises[2] < 0.5 * rises[0]


@pytest.mark.long
def test_damage_in_rounds_with_training_keeps_the_network(digits_model: nn.Module) -> None:
    recipe = optimal_brain_damage.recipe("digits", share=0.9, rounds=4)
    short = replace(recipe, stages=(replace(recipe.stages[0], training=Training(16, 1e-3)),))
    student, _ = run(digits_model, DIGITS, short)
    assert measure(student, DIGITS.selection(), DIGITS.quality) > 97  # type: ignore[misc]


def loss(model: nn.Module) -> float:
    assert DIGITS.loss is not None
    with torch.no_grad():
        return sum(float(DIGITS.loss(model(batch[0]), batch)) for batch in DIGITS.calibration_data())


@pytest.mark.long
def test_weighing_errors_by_the_outputs_keeps_them_nearer(digits_model: nn.Module) -> None:
    """Gao et al. 2018: codebooks of as many values, and supports of as many entries."""
    for scheme in (Codebook(4, Optimal()), rate_distortion_compression.PRUNED):
        errors = []
        for recipe in (
            Recipe("plain", (everywhere("compress", scheme),)),
            rate_distortion_compression.recipe("digits", scheme=scheme),
        ):
            student, _ = run(digits_model, DIGITS, recipe)
            errors.append(100 - nearness(student, digits_model, DIGITS))
        assert errors[1] < 0.9 * errors[0], scheme


def test_values_of_a_language_network_are_shared(digits_model: nn.Module) -> None:
    student, _ = run(digits_model, DIGITS, statistical_nlu_compression.recipe("digits"))
    for name, w in digits_model.named_parameters():
        values = student.weight(name).unique()
        assert len(values) <= 16 if w.ndim > 1 else torch.equal(student.weight(name), w.half().float())
    assert measure(student, DIGITS.selection(), DIGITS.quality) > 98  # type: ignore[misc]


def test_trimmed_layers_keep_their_outputs_and_most_weights_go(digits_model: nn.Module) -> None:
    """Aghasi et al. 2017: in parallel, each layer is within its tolerance on the inputs that it had."""
    recipe = net_trim.recipe("digits", tolerance=0.2, cascade=False, samples=400, iterations=300)
    last = replace(recipe, stages=recipe.stages[1:])  # the dense layers: fc1, which is rectified, and fc2
    student, _ = run(digits_model, DIGITS, last)
    rule = LayerResponses(samples=400, corrected=False)
    metrics = rule.measure(Compressed(digits_model).eval(), list(student.codes), DIGITS)
    for name, metric in metrics.items():
        assert isinstance(metric, Responses)
        ours = metric.inputs @ student.weight(name).flatten(1).T + metric.bias
        theirs = metric.outputs + metric.bias
        if name == "fc1.weight":
            ours, theirs = ours.relu(), theirs.relu()
        assert float((ours - theirs).detach().norm()) <= 0.2 * float(theirs.norm()) * 1.001, name
    kept = sum(int((student.weight(name) != 0).sum()) for name in student.codes)
    assert kept < 0.3 * 17_024
    assert measure(student, DIGITS.selection(), DIGITS.quality) > 98  # type: ignore[misc]
    plain, _ = run(
        digits_model, DIGITS, Recipe("plain", (Stage("prune", {"fc*.weight": Sparse(Fraction(1 - kept / 17_024))}),))
    )
    assert nearness(student, digits_model, DIGITS) > nearness(plain, digits_model, DIGITS)


def test_a_bit_buys_the_same_in_every_layer(digits_model: nn.Module) -> None:
    """Steps follow the curvature, so that every layer's share of the loss a weight is that of the price."""
    task = replace(DIGITS, model=lambda: digits_model)
    student, _ = run(digits_model, task, watersic.recipe("digits", price=1e-9))
    rule = Kronecker()
    names = [name for name in student.codes if name.endswith("weight")]
    original = Compressed(digits_model).eval()
    metrics = rule.measure(original, names, task)
    shares = {}
    for name in names:
        code = student.codes[name]
        assert isinstance(code, UniformCode)
        w = digits_model.get_parameter(name).detach()
        moved = code.levels.abs().sum(tuple(range(1, w.ndim))) > 0  # rows that have any level: others are free
        loss = float(metrics[name].distance(w, code.decode())) / (int(moved.sum()) * w[0].numel())
        shares[name] = loss / (1e-9 / (2 * math.log(2)))
    large = {name for name in names if digits_model.get_parameter(name).numel() > 1_000}
    assert len(large) == 3
    assert all(0.5 < shares[name] < 2 for name in large), shares
    assert all(0.2 < share < 10 for share in shares.values()), shares


def test_the_sweep_at_one_price_is_nearer_than_rounding_in_as_many_bytes(digits_model: nn.Module) -> None:
    task = replace(DIGITS, model=lambda: digits_model)
    original = Compressed(digits_model).eval()
    ours, _ = run(digits_model, task, watersic.recipe("digits", price=1e-8))
    rounding = Recipe("rounding", (everywhere("round", Uniform(3, granularity=PerChannel(), fit=Fit.SEARCH)),))
    theirs, _ = run(digits_model, task, rounding)
    assert len(file.encode(ours)) < len(file.encode(theirs))
    assert nearness(ours, original, task) > nearness(theirs, original, task)


@pytest.mark.long
def test_scales_and_biases_are_tuned_on_calibration_data_without_labels(digits_model: nn.Module) -> None:
    task = replace(DIGITS, model=lambda: digits_model, train=None, loss=None)
    original = Compressed(digits_model).eval()
    plain, _ = run(digits_model, task, watersic.recipe("digits", price=1e-7))
    tuned, _ = run(digits_model, task, watersic.recipe("digits", price=1e-7, epochs=10))
    assert nearness(tuned, original, task) > nearness(plain, original, task)

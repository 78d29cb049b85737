"""What the papers on compression without a training run are about, at work on the digits."""

import torch
from torch import nn

from featherweight import file
from featherweight.core.stage import Recipe, everywhere
from featherweight.core.task import measure
from featherweight.papers import product_quantization, q_cnn, vector_quantization_cnn
from featherweight.run import run
from featherweight.schemes.plus import Plus
from featherweight.schemes.product import Product, ProductCode
from featherweight.search.budget import nearness
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

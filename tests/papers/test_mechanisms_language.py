"""What the papers on language models after training are about, at work on the digits."""

import pytest
import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.core.compressed import Compressed
from featherweight.core.stage import Recipe, everywhere
from featherweight.core.tap import Operator
from featherweight.core.task import Example, Task, measure
from featherweight.papers import awq, smoothquant, sparsegpt, wanda
from featherweight.run import run
from featherweight.schemes.amounts import Amount, Fraction, NToM
from featherweight.schemes.sparse import Sparse, SparseCode
from featherweight.schemes.uniform import Fit, PerChannel, Uniform, UniformCode
from featherweight.search.budget import nearness
from featherweight.tasks import find

DIGITS = find("digits")


@pytest.mark.long
def test_the_sweep_prunes_nearer_than_norms_and_norms_nearer_than_magnitudes(digits_model: nn.Module) -> None:
    """Sun et al. 2023, table 2: SparseGPT, Wanda and magnitudes at the same sparsity and pattern."""
    for amount in (None, NToM(1, 4)):
        magnitudes = everywhere("prune", Sparse(amount or Fraction(0.5)))
        errors = []
        for recipe in (
            sparsegpt.recipe("digits", amount=amount),
            wanda.recipe("digits", amount=amount),
            Recipe("magnitude", (magnitudes,)),
        ):
            student, _ = run(digits_model, DIGITS, recipe)
            errors.append(100 - nearness(student, digits_model, DIGITS))
        assert errors[0] < errors[1] < errors[2], amount


@pytest.mark.long
@pytest.mark.parametrize("amount", [Fraction(0.5), NToM(2, 4)], ids=str)
def test_a_pruned_file_is_loaded_with_its_pattern(digits_model: nn.Module, amount: Amount) -> None:
    student, _ = run(digits_model, DIGITS, sparsegpt.recipe("digits", amount=amount, values=Uniform(4)))
    loaded, _ = file.load(file.encode(student, number=DIGITS.number), DIGITS.architecture())
    for name, code in student.codes.items():
        assert isinstance(code, SparseCode)
        assert torch.equal(loaded.weight(name), code.decode())
        if isinstance(amount, NToM):
            rows = code.support.flatten(1)
            runs = nn.functional.pad(rows, (0, -rows.shape[1] % 4)).reshape(-1, 4)
            assert int(runs.sum(1).max()) <= 2
    assert measure(loaded, DIGITS.selection(), DIGITS.quality) > 97  # type: ignore[misc]


def test_wanda_is_its_formula(digits_model: nn.Module) -> None:
    """Sun et al. 2023, equation 1, by hand: ``|W_ij| ‖X_j‖₂`` within each output, inputs from behind pruned layers."""
    student, _ = run(digits_model, DIGITS, wanda.recipe("digits"))
    partly = Compressed(digits_model).eval()
    for name, code in student.codes.items():
        assert isinstance(code, SparseCode)
        w = digits_model.get_parameter(name).detach()
        layer = partly.base.get_submodule(name.removesuffix(".weight"))
        x = _inputs(partly, layer)
        scores = w.flatten(1).abs().double() * x.double().norm(dim=0)
        for row, support in zip(scores, code.support.flatten(1), strict=True):
            kept = len(row) - round(len(row) / 2)
            assert int(support.sum()) == min(kept, int((row > 0).sum()))
            assert float(row[~support].max()) <= float(row[support].min())
        assert torch.equal(code.decode(), w * code.support)
        partly.encode({name: code}, {name: Sparse(Fraction(0.5))})


@pytest.mark.parametrize("seed", [3, 5])
def test_weights_whose_inputs_are_large_are_rounded_finer(seed: int) -> None:
    """Lin et al. 2023: the same levels, nearer outputs, once scales have moved between layers."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 8))
    with torch.no_grad():
        model[0].weight *= torch.randn(64, 1).exp()  # what hidden channels give differs by orders of magnitude
    x = torch.randn(128, 16)
    task = Task("channels", lambda: model, lambda: model, lambda: Example((x[:1],)), calibration=lambda: [(x,)])
    hidden = model[0](x).relu().detach()
    scheme = Uniform(3, granularity=PerChannel(), fit=Fit.SEARCH)
    student, _ = run(model, task, Recipe("scale", (awq.recipe(bits=3).stages[0],)))
    scales = model[0].weight.detach()[:, 0] / student.parameter("0.weight").detach()[:, 0]
    w = model[2].weight.detach()
    plain, scaled = (((scheme.project(w * s).decode() / s - w) @ hidden.T).square().sum() for s in (1.0, scales))
    assert float(scaled) < 0.9 * float(plain)


def test_moved_scales_are_in_the_file(digits_model: nn.Module) -> None:
    student, (scaled, _, _) = run(digits_model, DIGITS, awq.recipe("digits", bits=3))
    assert scaled.repaired["conv1.weight"] > 0
    loaded, _ = file.load(file.encode(student, number=DIGITS.number), DIGITS.architecture())
    for name, code in student.codes.items():
        assert torch.equal(loaded.weight(name), code.decode())
        assert not isinstance(code, UniformCode) or code.bits == 3


def test_smoothed_models_run_in_eight_bits_from_their_file(digits_model: nn.Module) -> None:
    """Xiao et al. 2022: weights and what they take in."""
    student, (smoothed, _, _) = run(digits_model, DIGITS, smoothquant.recipe("digits"))
    assert smoothed.repaired and all(
        isinstance(code, UniformCode) for n, code in student.codes.items() if "weight" in n
    )
    assert sum(place.call.operator in (Operator.LINEAR, Operator.CONVOLVE) for place in student.sites) > 0
    assert measure(student, DIGITS.selection(), DIGITS.quality) > 98  # type: ignore[misc]
    loaded, _ = file.load(file.encode(student, number=DIGITS.number), DIGITS.architecture())
    batch = next(iter(DIGITS.selection()))  # type: ignore[misc]
    with torch.no_grad():
        assert torch.equal(loaded(batch[0]), student(batch[0]))


def _inputs(model: nn.Module, layer: nn.Module) -> Tensor:
    found: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, args: found.append(args[0].detach()))
    with torch.no_grad():
        for batch in DIGITS.calibration_data():
            model(batch[0])
    handle.remove()
    x = torch.cat(found)
    if isinstance(layer, nn.Linear):
        return x.flatten(0, -2)
    assert isinstance(layer, nn.Conv2d)
    columns = nn.functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
    return columns.transpose(1, 2).flatten(0, 1)

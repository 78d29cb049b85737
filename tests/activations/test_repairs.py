"""Repairs: biases with the float means, norms with the statistics of what reaches them, equalized nets."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from featherweight.activations.repairs import BiasCorrection, Equalize, Moments, NormReestimation, relative_change
from featherweight.activations.rules import Calibrated
from featherweight.core.compressed import Compressed
from featherweight.core.errors import NoEffectError, SelectionError
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Recipe, Stage, Training
from featherweight.core.tap import Call, Operator, Place
from featherweight.core.task import Example, Task
from featherweight.graph.fold import FoldNorms
from featherweight.run import Coverage, run
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.uniform import Uniform


class Shared(nn.Module):
    """A layer that runs twice, one without a bias, and a matrix product of no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.bare = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bare(self.first(self.first(x)))
        return y


def chain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def normed() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3))


def seeded(model: nn.Module) -> nn.Module:
    """In float64, all tensors drawn at random, variances and gains positive."""
    generator = torch.Generator().manual_seed(0)
    model = model.double().eval()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            positive = name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight"))
            tensor.data.copy_(drawn.abs() + 0.1 if positive else drawn)
    return model


def batches(*sizes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, generator=generator, dtype=torch.float64) + 0.5 for size in sizes]


def task(model: nn.Module, data: list[Tensor]) -> Task:
    return Task("t", lambda: model, lambda: model, lambda: Example((data[0][:2],)), calibration=lambda: data)


IMAGES = batches((5, 2, 6, 6), (3, 2, 6, 6), (1, 2, 6, 6))


def test_moments_are_those_of_all_batches_at_once() -> None:
    seen = Moments()
    for batch in IMAGES:
        seen.add(batch, 1)
    rows = torch.cat(IMAGES).movedim(1, -1).reshape(-1, 2)
    assert seen.count == len(rows)
    torch.testing.assert_close(seen.mean, rows.mean(0))
    torch.testing.assert_close(seen.variance, rows.var(0))


def outputs_of(student: Compressed, name: str, data: list[Tensor]) -> Tensor:
    """What the layer answers to what reaches it, quantized as its taps say: [n, channels]."""
    layer, parts = student.base.get_submodule(name), []
    operator = Operator.LINEAR if isinstance(layer, nn.Linear) else Operator.CONVOLVE
    tap = student.sites.get(Place(Call(name, operator), 0))

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0] if tap is None else tap(args[0])
        parts.append(nn.Module.__call__(plain, x).movedim(1, -1).flatten(0, -2))

    plain = type(layer).__new__(type(layer))
    plain.__dict__ = {**layer.__dict__, "_forward_pre_hooks": {}, "_forward_hooks": {}}
    with layer.register_forward_pre_hook(note), torch.no_grad():
        for batch in data:
            student(batch)
    return torch.cat(parts)


@pytest.mark.parametrize("tap", [None, Calibrated(bits=3)])
def test_corrected_outputs_have_the_means_of_the_float_ones(tap: Calibrated | None) -> None:
    model = seeded(chain())
    stage = Stage("q", {WEIGHTS: Uniform(2)}, tap=tap, repairs=(BiasCorrection(batches=3),))
    student, (covered,) = run(model, task(model, IMAGES), Recipe("r", (stage,)))
    plain, (_,) = run(model, task(model, IMAGES), Recipe("r", (Stage("q", {WEIGHTS: Uniform(2)}, tap=tap),)))
    for name in ("0", "2", "5"):
        wanted = outputs_of(Compressed(model), name, IMAGES).mean(0)
        torch.testing.assert_close(outputs_of(student, name, IMAGES).mean(0), wanted, atol=1e-9, rtol=1e-9)
        assert not torch.allclose(outputs_of(plain, name, IMAGES).mean(0), wanted, atol=1e-3)
    assert list(covered.repaired) == ["0.bias", "2.bias", "5.bias"] and all(covered.repaired.values())
    assert not covered.left
    torch.testing.assert_close(model[0].bias, seeded(chain())[0].bias)  # type: ignore[index]


def test_only_the_first_batches_count() -> None:
    model = seeded(chain())
    stage = Stage("q", {WEIGHTS: Uniform(2)}, repairs=(BiasCorrection(batches=1),))
    student, _ = run(model, task(model, IMAGES), Recipe("r", (stage,)))
    wanted = outputs_of(Compressed(model), "0", IMAGES[:1]).mean(0)
    torch.testing.assert_close(outputs_of(student, "0", IMAGES[:1]).mean(0), wanted)
    assert not torch.allclose(
        outputs_of(student, "0", IMAGES).mean(0), outputs_of(Compressed(model), "0", IMAGES).mean(0)
    )


def test_norms_that_fold_in_the_same_stage_give_the_bias() -> None:
    model = seeded(normed())
    schemes = {"*.weight": Uniform(3), "*.bias": Float(Width.FLOAT16)}
    stage = Stage("q", schemes, edit=FoldNorms(), repairs=(BiasCorrection(batches=3),))
    student, (covered,) = run(model, task(model, IMAGES), Recipe("r", (stage,)))
    folded = Compressed(model)
    for edit in student.edits:
        folded.edit(edit)
    assert list(covered.repaired) == ["0.bias", "3.bias"]
    wanted, found = (outputs_of(each, "3", IMAGES).mean(0) for each in (folded, student))
    torch.testing.assert_close(found, wanted, atol=2e-2, rtol=2e-3)  # biases are rounded to float16
    assert student.codes["3.bias"].bits == 16


def test_layers_without_a_mean_of_their_own_are_named() -> None:
    model = seeded(Shared())
    stage = Stage("q", {WEIGHTS: Uniform(2)}, repairs=(BiasCorrection(),))
    _, (covered,) = run(model, task(model, batches((5, 4))), Recipe("r", (stage,)))
    assert covered.repaired == {}
    assert set(covered.left) == {"first.bias", "bare.bias"}
    assert "more than once" in covered.left["first.bias"] and "no bias" in covered.left["bare.bias"]


def test_norms_have_the_statistics_of_what_reaches_them() -> None:
    model = seeded(normed())
    stages = (Stage("q", {WEIGHTS: Uniform(2)}), Stage("norms", repairs=(NormReestimation(batches=3),)))
    student, (_, covered) = run(model, task(model, IMAGES), Recipe("r", stages))
    layers, x = student.base, torch.cat(IMAGES)
    with torch.no_grad():
        for norm in (1, 4):
            x = layers[norm - 1](x)  # type: ignore[index]
            for buffer, value in (("running_mean", x.mean((0, 2, 3))), ("running_var", x.var((0, 2, 3)))):
                torch.testing.assert_close(layers[norm].get_buffer(buffer), value)  # type: ignore[index]
                assert covered.repaired[f"{norm}.{buffer}"] > 0
            x = layers[norm](x).relu()  # type: ignore[index]
    torch.testing.assert_close(model[1].running_mean, seeded(normed())[1].running_mean)  # type: ignore[index]


def test_equalized_models_compute_the_same_with_equal_ranges() -> None:
    model = seeded(chain())
    student, (covered,) = run(model, task(model, IMAGES), Recipe("r", (Stage("e", repairs=(Equalize(),)),)))
    for batch in IMAGES:
        torch.testing.assert_close(student(batch), model(batch), rtol=1e-10, atol=1e-10)
    first, second, third = (student.base[at].weight.detach() for at in (0, 2, 5))  # type: ignore[index]
    written, read = first.abs().amax((1, 2, 3)), second.abs().amax((1, 2, 3))
    torch.testing.assert_close(written, read, rtol=1e-2, atol=0)
    torch.testing.assert_close(read, third.abs().reshape(3, 4, 16).amax((0, 2)), rtol=1e-2, atol=0)
    assert set(covered.repaired) == {"0.weight", "0.bias", "2.weight", "2.bias", "5.weight", "5.bias"}
    assert covered.repaired["5.bias"] == 0


def test_equalization_lowers_the_error_of_one_scale_a_tensor() -> None:
    model = seeded(chain())
    with torch.no_grad():
        scales = torch.tensor([1.0, 8.0, 64.0, 512.0])
        for tensor in (model[0].weight, model[0].bias):  # type: ignore[index]
            tensor.mul_(scales.view(-1, *[1] * (tensor.ndim - 1)))
        model[2].weight.div_(scales.view(-1, 1, 1, 1))  # type: ignore[index]
    quantize = Stage("q", {WEIGHTS: Uniform(6)})
    errors = []
    for stages in ((quantize,), (Stage("e", repairs=(Equalize(),)), quantize)):
        student, _ = run(model, task(model, IMAGES), Recipe("r", stages))
        errors.append(float((student(IMAGES[0]) - model(IMAGES[0])).detach().norm()))
    assert errors[1] < errors[0] / 2


def test_equalization_comes_before_quantization() -> None:
    model = seeded(chain())
    weights = Stage("w", {WEIGHTS: Uniform(4)})
    with pytest.raises(NoEffectError, match="coded already"):
        run(model, task(model, IMAGES), Recipe("r", (weights, Stage("e", repairs=(Equalize(),)))))
    with pytest.raises(SelectionError, match="quantized already"):
        run(model, task(model, IMAGES), Recipe("r", (Stage("t", tap=Calibrated()), Stage("e", repairs=(Equalize(),)))))


def test_a_stage_with_nothing_to_repair_has_no_effect() -> None:
    model = seeded(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)))
    for repair, reason in ((Equalize(), "reach one other layer"), (NormReestimation(), "nothing changed")):
        with pytest.raises(NoEffectError, match=reason):
            run(model, task(model, batches((5, 4))), Recipe("r", (Stage("e", repairs=(repair,)),)))


def test_the_record_of_a_stage_without_repairs_is_empty() -> None:
    model = seeded(chain())
    _, (covered,) = run(model, task(model, IMAGES), Recipe("r", (Stage("q", {WEIGHTS: Uniform(4)}),)))
    assert covered == Coverage("q", covered.touched, covered.skipped)


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [([3.0, 4.0], [3.0, 4.0], 0.0), ([0.0], [2.0], 1.0), ([0.0], [0.0], 0.0), ([4.0], [3.0], 0.25)],
)
def test_relative_change(before: list[float], after: list[float], change: float) -> None:
    assert relative_change(torch.tensor(before), torch.tensor(after)) == pytest.approx(change)


def test_a_checkpoint_does_not_hold_what_a_stage_found(tmp_path: Path) -> None:
    model = seeded(chain())
    learning = Stage("q", {WEIGHTS: Uniform(4)}, training=Training(1), repairs=(BiasCorrection(),))
    with pytest.raises(SelectionError, match="'q' learns and repairs"):
        run(model, task(model, IMAGES), Recipe("r", (learning,)), folder=tmp_path)
    stages = (Stage("q", {WEIGHTS: Uniform(2)}, repairs=(BiasCorrection(3),)), Stage("w", {WEIGHTS: Uniform(1)}))
    student, _ = run(model, task(model, IMAGES), Recipe("r", stages), folder=tmp_path)
    again, _ = run(model, task(model, IMAGES), Recipe("r", stages), folder=tmp_path)
    for name, value in student.base.state_dict().items():
        torch.testing.assert_close(again.base.state_dict()[name], value, rtol=0, atol=0)

"""Scales moved into norms and layers: the function stays, and what is quantized afterwards loses less."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.activations.rules import Calibrated
from featherweight.activations.smoothing import ActivationAware, Smooth, activation_scales, smoothing_scales
from featherweight.architectures.characters import CharacterTransformer
from featherweight.core.errors import NoEffectError, SchemeError, SelectionError, TaskError
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Recipe, Repair, Stage
from featherweight.core.task import Example, Task
from featherweight.graph.chains import Scaling, find_scalings
from featherweight.graph.trace import trace
from featherweight.run import run
from featherweight.schemes.uniform import PerChannel, Uniform


class Block(nn.Module):
    """A norm for three readers, a root-mean-square norm by hand, a chain with ReLU, and a norm that a sum reads too."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm, self.kept = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=bias) for bias in (True, False, True))
        self.gain = nn.Parameter(torch.ones(width))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.last = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.dropout(self.norm(x), 0.1, self.training)
        mixed = (self.query(inner) * self.key(inner)).softmax(-1) * self.value(inner)
        x = x + mixed
        root = self.gain * (x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt())
        x = x + self.down(self.up(root).relu())
        kept = self.kept(x)
        y: Tensor = self.last(kept) + kept[..., :3]
        return y


def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """In float64, with everything drawn, gains positive, and channels of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    for name, tensor in model.named_parameters():
        value = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        positive = tensor.ndim == 1 and ("norm.weight" in name or "gain" in name)
        tensor.data.copy_((2 * value).exp() if positive else value / max(tensor.shape[-1], 1) ** 0.5)
    return model


DATA = [torch.randn(4, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2, 3)]


def task(model: nn.Module, data: list[Tensor] = DATA) -> Task:
    return Task("t", lambda: model, lambda: model, lambda: Example((data[0][:2],)), calibration=lambda: data)


def test_what_can_be_scaled_in_a_block() -> None:
    model = Block().eval()
    assert find_scalings(trace(model, Example((torch.zeros(2, 5, 8),))), model) == [
        Scaling(("norm.weight", "norm.bias"), ("query", "key", "value")),
        Scaling(("gain",), ("up",)),
        Scaling(("up.weight", "up.bias"), ("down",)),
    ]


def test_every_norm_of_the_transformer_is_scaled() -> None:
    model = CharacterTransformer(width=16, layers=2, context=8).eval()
    found = find_scalings(trace(model, Example((torch.zeros(2, 8, dtype=torch.int64),))), model)
    assert [scaling.written[0] for scaling in found] == [
        "layers.0.attention_norm.weight",
        "layers.0.inner_norm.weight",
        "layers.1.attention_norm.weight",
        "layers.1.inner_norm.weight",
        "norm.weight",
    ]
    assert [len(scaling.readers) for scaling in found] == [3, 1, 3, 1, 1]


class Tied(nn.Module):
    """A norm whose gain is shared, and a layer that reads two norms."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.b.weight = self.a.weight
        self.first, self.twice = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.first(self.a(x)) + self.first(self.b(x)) + self.twice(self.c(x)) + self.twice(x)
        return y


def test_what_is_shared_stays() -> None:
    model = Tied().eval()
    assert find_scalings(trace(model, Example((torch.zeros(2, 8),))), model) == []


REPAIRS = [Smooth(0.5), Smooth(0.8), ActivationAware(Uniform(3, granularity=PerChannel()))]


@pytest.mark.parametrize("repair", REPAIRS, ids=str)
def test_the_function_stays(repair: Repair) -> None:
    model = drawn(Block())
    student, (covered,) = run(model, task(model), Recipe("r", (Stage("s", repairs=(repair,)),)))
    for batch in DATA:
        torch.testing.assert_close(student(batch), model(batch), rtol=1e-10, atol=1e-10)
    assert set(covered.repaired) == {
        *("norm.weight", "norm.bias", "query.weight", "key.weight", "value.weight"),
        *("gain", "up.weight", "up.bias", "down.weight"),
    }
    assert covered.repaired["norm.weight"] > 0.1
    float32 = drawn(Block()).float()
    data = [batch.float() for batch in DATA]
    student, _ = run(float32, task(float32, data), Recipe("r", (Stage("s", repairs=(repair,)),)))
    torch.testing.assert_close(student(data[0]), float32(data[0]), rtol=1e-5, atol=1e-5)


def test_through_a_flattening_each_channel_has_one_scale() -> None:
    model = drawn(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)))
    images = [torch.randn(3, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))]
    for repair in REPAIRS:
        student, _ = run(model, task(model, images), Recipe("r", (Stage("s", repairs=(repair,)),)))
        torch.testing.assert_close(student(images[0]), model(images[0]), rtol=1e-10, atol=1e-10)
        ratios = (student.base[3].weight / model[3].weight).reshape(3, 4, 16)  # type: ignore[index]
        torch.testing.assert_close(ratios, ratios[:1, :, :1].expand_as(ratios))


def test_smoothing_by_its_formula() -> None:
    """Xiao et al. 2022, equation 4, for the three readers of a norm, entry by entry."""
    model, alpha = drawn(Block()), 0.7
    seen: list[Tensor] = []
    handle = model.query.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    for batch in DATA:
        model(batch)
    handle.remove()
    largest = torch.cat(seen).abs().reshape(-1, 8).max(0).values
    student, _ = run(model, task(model), Recipe("r", (Stage("s", repairs=(Smooth(alpha),)),)))
    student.requires_grad_(False)
    model.requires_grad_(False)
    for j in range(8):
        read = max(float(getattr(model, name).weight[:, j].abs().max()) for name in ("query", "key", "value"))
        s = float(largest[j]) ** alpha / read ** (1 - alpha)
        assert float(student.base.norm.weight[j]) == pytest.approx(float(model.norm.weight[j]) / s)  # type: ignore[union-attr, index, arg-type]
        assert float(student.base.key.weight[2, j]) == pytest.approx(float(model.key.weight[2, j]) * s)  # type: ignore[union-attr, index, arg-type]


def test_scales_of_channels_that_nothing_reaches() -> None:
    x, w = torch.tensor([0.0, 4.0, 9.0]), torch.tensor([1.0, 0.0, 4.0])
    torch.testing.assert_close(smoothing_scales(x, w, 0.5), torch.tensor([1.0, 1.0, 1.5], dtype=torch.float64))
    assert torch.equal(activation_scales(torch.zeros(3), 0.5), torch.ones(3, dtype=torch.float64))
    wide = activation_scales(torch.tensor([0.0, 1.0, 16.0]), 0.5)
    assert bool((wide > 0).all()) and float(wide[2] / wide[1]) == pytest.approx(4.0)
    assert torch.equal(activation_scales(torch.tensor([2.0, 5.0]), 0.0), torch.ones(2, dtype=torch.float64))


def test_the_search_is_never_worse_than_no_scaling_and_mostly_better() -> None:
    """The summed output error of the layers behind a norm, of what they take in, written down a second time."""
    scheme = Uniform(3, granularity=PerChannel())
    gains = []
    for seed in range(4):
        model = drawn(Block(), seed)
        student, _ = run(model, task(model), Recipe("r", (Stage("s", repairs=(ActivationAware(scheme),)),)))
        errors = []
        for base in (student.base, model):
            with torch.no_grad():
                x = base.norm(torch.cat(DATA))  # type: ignore[operator]
                layers = [getattr(base, name) for name in ("query", "key", "value")]
                moved = [x @ (scheme.project(layer.weight).decode() - layer.weight).T for layer in layers]
            errors.append(sum(float(each.square().sum()) for each in moved))
        assert errors[0] <= errors[1] * (1 + 1e-9)
        gains.append(errors[0] / errors[1])
    assert min(gains) < 0.9


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_smoothing_helps_where_a_channel_is_an_outlier(bits: int) -> None:
    model = drawn(Block())
    with torch.no_grad():
        model.norm.weight.fill_(1.0)
        model.norm.weight[3] = 300.0
        for layer in (model.query, model.key, model.value):
            layer.weight[:, 3] /= 300.0
    quantize = Stage("q", {WEIGHTS: Uniform(bits)}, tap=Calibrated(bits))
    errors = []
    for stages in ((quantize,), (Stage("s", repairs=(Smooth(),)), quantize)):
        student, _ = run(model, task(model), Recipe("r", stages))
        errors.append(float((student(DATA[0]) - model(DATA[0])).detach().norm()))
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("repair", [Smooth(), ActivationAware(Uniform(4))], ids=str)
def test_scaling_comes_before_quantization(repair: Repair) -> None:
    model = drawn(Block())
    scale = Stage("s", repairs=(repair,))
    with pytest.raises(NoEffectError, match="coded already"):
        run(model, task(model), Recipe("r", (Stage("w", {WEIGHTS: Uniform(4)}), scale)))
    with pytest.raises(SelectionError, match="quantized already"):
        run(model, task(model), Recipe("r", (Stage("t", tap=Calibrated()), scale)))


@pytest.mark.parametrize("repair", [Smooth(), ActivationAware(Uniform(4))], ids=str)
def test_data_and_models_that_nothing_can_be_scaled_with(repair: Repair) -> None:
    plain = drawn(nn.Sequential(nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 2)))
    scale = Recipe("r", (Stage("s", repairs=(repair,)),))
    with pytest.raises(NoEffectError, match="no norm or layer"):
        run(plain, task(plain), scale)
    model = drawn(Block())
    bad = [torch.full((1, 5, 8), float("nan"), dtype=torch.float64)]
    with pytest.raises(TaskError, match="NaN"):
        run(model, task(model, bad), scale)


def test_settings() -> None:
    with pytest.raises(SchemeError, match=r"1\.5"):
        Smooth(1.5)
    with pytest.raises(SchemeError, match="0 steps"):
        ActivationAware(Uniform(4), steps=0)

"""Law 4: a model with norms folded computes what it computed; and codes, names and taps follow."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight import file
from featherweight.activations.quantizers import Quantizer
from featherweight.activations.rules import Calibrated
from featherweight.architectures import ResNetCifar
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError, SelectionError
from featherweight.core.scheme import Scheme
from featherweight.core.tap import Call, Operator, Place, TapSite, watching
from featherweight.core.task import Example, Task
from featherweight.graph.fold import Fold, FoldNorms, foldable
from featherweight.graph.trace import trace
from featherweight.schemes.codebook import Codebook
from featherweight.schemes.uniform import PerChannel, Uniform


class Pair(nn.Module):
    """A layer, its norm, and something behind that sees the difference."""

    def __init__(self, layer: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.layer(x)))


LAYERS = {
    "linear": (lambda bias: nn.Linear(4, 6, bias=bias), nn.BatchNorm1d, (5, 4)),
    "conv 1d": (lambda bias: nn.Conv1d(4, 6, 3, bias=bias), nn.BatchNorm1d, (5, 4, 7)),
    "conv 2d": (lambda bias: nn.Conv2d(4, 6, 3, 2, 1, bias=bias), nn.BatchNorm2d, (2, 4, 7, 6)),
    "grouped": (lambda bias: nn.Conv2d(4, 6, 3, groups=2, bias=bias), nn.BatchNorm2d, (2, 4, 7, 6)),
    "depthwise": (lambda bias: nn.Conv2d(6, 6, 3, groups=6, bias=bias), nn.BatchNorm2d, (2, 6, 5, 5)),
    "reflected": (lambda bias: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", bias=bias), nn.BatchNorm2d, (2, 4, 5, 5)),  # noqa: E501
    "conv 3d": (lambda bias: nn.Conv3d(2, 6, 2, bias=bias), nn.BatchNorm3d, (2, 2, 3, 4, 3)),
}  # fmt: skip


def randomised(model: nn.Module) -> nn.Module:
    """In float64, with gains of either sign, one of them zero; nothing else is zero, and no variance is negative."""
    model = model.double().eval()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.is_floating_point():
            drawn = torch.rand_like(tensor) + 0.1
            tensor.data.copy_(drawn if name.endswith("running_var") else drawn * torch.randn_like(tensor).sign())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and module.affine:
            module.weight.data[:3] = torch.tensor([-0.7, 0.0, 0.9])
    return model


def pair(kind: str, bias: bool = True, affine: bool = True) -> tuple[Pair, Tensor]:
    layer, norm, shape = LAYERS[kind]
    torch.manual_seed(0)
    return randomised(Pair(layer(bias), norm(6, affine=affine, eps=0.01))), torch.randn(shape, dtype=torch.float64)


def pairs_of(model: nn.Module, x: Tensor) -> tuple[tuple[str, str], ...]:
    return foldable(trace(model, Example((x,))), model)


def task_of(model: nn.Module, x: Tensor) -> Task:
    return Task("fold", lambda: model, lambda: model, lambda: Example((x,)), calibration=lambda: [x])


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_folded_equals_unfolded(kind: str, bias: bool, affine: bool) -> None:
    model, x = pair(kind, bias, affine)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    student = Compressed(model)
    for edit in FoldNorms(required=True).decide(student, task_of(model, x)):
        assert edit == Fold((("layer", "norm"),)) == Fold.from_json(edit.to_json())
        student.edit(edit)
    torch.testing.assert_close(student(x), model(x), rtol=1e-12, atol=1e-12)
    assert isinstance(student.base.norm, nn.Identity)
    assert dict(student.names) == {"layer.weight": ("layer.weight",), "layer.bias": ("layer.bias",)}
    assert not torch.allclose(student.parameter("layer.weight"), before["layer.weight"])
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert isinstance(model.norm, LAYERS[kind][1]) and (model.layer.bias is None) is not bias


def test_every_norm_of_a_resnet_folds_and_the_fold_replays_on_a_fresh_model() -> None:
    torch.manual_seed(0)
    model, x = randomised(ResNetCifar(8)), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    student = Compressed(model)
    (edit,) = FoldNorms().decide(student, task_of(model, x))
    student.edit(edit)
    assert not [m for m in student.base.modules() if isinstance(m, nn.BatchNorm2d)]
    torch.testing.assert_close(student(x), model(x), rtol=1e-10, atol=1e-10)
    fresh = copy.deepcopy(model)
    Fold.from_json(edit.to_json()).apply(fresh)
    assert torch.equal(fresh(x), student(x))
    loaded, _ = file.load(file.encode(student), ResNetCifar(8).double())
    assert torch.equal(loaded(x), student(x)) and loaded.edits == (edit,)


class SharedNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x)) + self.norm(self.second(x))


class TwoUsers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return self.norm(y) + y


class LayerTwice(TwoUsers):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(self.layer(x)))


class NormFirst(TwoUsers):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.norm(x))


class Between(TwoUsers):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x).relu())


class WeightElsewhere(TwoUsers):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(self.layer(x)), self.layer.weight)


class GainElsewhere(TwoUsers):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x)) * self.norm.weight


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.other = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.other.weight = self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.norm(self.layer(x)))


class Rectified(nn.BatchNorm1d):
    """Does more than its base class."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Doubled(nn.Linear):
    """Scales its weight by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


VECTORS, STEPS = torch.randn(3, 4), torch.randn(3, 6, 4)
OTHERS = {
    "shared norm": (SharedNorm, VECTORS),
    "two users": (TwoUsers, VECTORS),
    "layer called twice": (LayerTwice, VECTORS),
    "norm first": (NormFirst, VECTORS),
    "something between": (Between, VECTORS),
    "weight used elsewhere": (WeightElsewhere, VECTORS),
    "gain used elsewhere": (GainElsewhere, VECTORS),
    "tied weight": (Tied, VECTORS),
    "subclass of a norm": (lambda: Pair(nn.Linear(4, 6), Rectified(6)), VECTORS),
    "subclass of a layer": (lambda: Pair(Doubled(4, 6), nn.BatchNorm1d(6)), VECTORS),
    "weight computed": (
        lambda: Pair(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.BatchNorm1d(6)),
        VECTORS,
    ),
    "norm over steps": (lambda: Pair(nn.Linear(4, 5), nn.BatchNorm1d(6)), STEPS),
    "norm over as many steps": (lambda: Pair(nn.Linear(4, 6), nn.BatchNorm1d(6)), STEPS),
    "convolution without a batch": (lambda: Pair(nn.Conv1d(6, 6, 3, padding=1), nn.BatchNorm1d(4)), STEPS[0]),
    "norm without statistics": (lambda: Pair(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False)), VECTORS),
    "layer norm": (lambda: Pair(nn.Linear(4, 6), nn.LayerNorm(6)), VECTORS),
    "transposed": (lambda: Pair(nn.ConvTranspose1d(6, 4, 3), nn.BatchNorm1d(4)), STEPS),
}


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_left_alone(name: str) -> None:
    make, x = OTHERS[name]
    model = make().eval()
    assert pairs_of(model, x) == ()
    student = Compressed(model)
    assert FoldNorms().decide(student, task_of(model, x)) == []
    with pytest.raises(SelectionError, match="no batch norm follows a layer"):
        FoldNorms(required=True).decide(student, task_of(model, x))


def test_modules_of_two_names() -> None:
    """Called by the second: the norm is gone under both."""

    class Two(Pair):
        def __init__(self) -> None:
            super().__init__(nn.Linear(4, 6), nn.BatchNorm1d(6))
            self.again, self.too = self.layer, self.norm

        def forward(self, x: Tensor) -> Tensor:
            return self.too(self.again(x))

    torch.manual_seed(0)
    model, x = randomised(Two()), torch.randn(3, 4, dtype=torch.float64)
    student = Compressed(model)
    student.edit(Fold(pairs_of(model, x)))
    torch.testing.assert_close(student(x), model(x), rtol=1e-12, atol=1e-12)
    assert isinstance(student.base.norm, nn.Identity) and isinstance(student.base.too, nn.Identity)
    assert student.names["layer.weight"] == ("layer.weight", "again.weight")
    loaded, _ = file.load(file.encode(student), Two().double())
    assert torch.equal(loaded(x), student(x))


def encoded(model: nn.Module, scheme: Scheme) -> Compressed:
    student = Compressed(model)
    student.encode(
        {"layer.weight": scheme.project(student.parameter("layer.weight").detach())}, {"layer.weight": scheme}
    )
    return student


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", ["linear", "depthwise", "conv 3d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_symmetric_code_a_channel_follows(bits: int, kind: str, dtype: torch.dtype) -> None:
    """Levels keep their size; scales, rounded to their stored width anew, are multiplied."""
    model = pair(kind)[0].to(dtype)
    model.norm.weight.data[1] = 0.5
    student = encoded(model, Uniform(bits, True, PerChannel(0)))
    before = student.codes["layer.weight"]
    factor = model.norm.weight.detach() / (model.norm.running_var + model.norm.eps).sqrt()
    assert bool((factor < 0).any())
    student.edit(Fold((("layer", "norm"),)))
    after = student.codes["layer.weight"]
    assert after.layout().settings == before.layout().settings
    assert torch.equal(after.levels.abs(), before.levels.abs())
    shaped = factor.view(-1, *[1] * (before.levels.ndim - 1))
    torch.testing.assert_close(after.decode(), before.decode() * shaped, rtol=2**-9, atol=0)
    assert torch.equal(student.parameter("layer.weight"), after.decode())
    loaded, _ = file.load(file.encode(student), copy.deepcopy(model))
    assert torch.equal(loaded.codes["layer.weight"].decode(), after.decode())


@pytest.mark.parametrize(
    "scheme", [Uniform(4), Uniform(4, False, PerChannel(0)), Uniform(4, True, PerChannel(1)), Codebook(4)], ids=str
)
def test_other_codes_are_dropped(scheme: Scheme) -> None:
    """And the decoded weight that they leave is folded."""
    model, x = pair("conv 1d")
    student = encoded(model, scheme)
    before = student(x)
    student.edit(Fold((("layer", "norm"),)))
    assert not student.codes
    torch.testing.assert_close(student(x), before, rtol=1e-12, atol=1e-12)


def test_a_code_does_not_follow_a_gain_of_zero_and_codes_of_other_tensors_stay() -> None:
    model, _ = pair("linear")
    student = encoded(model, Uniform(4, True, PerChannel(0)))
    student.edit(Fold((("layer", "norm"),)))
    assert model.norm.weight[1] == 0 and not student.codes
    chain = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 6)).eval()
    student = Compressed(chain)
    codes = {name: Codebook(4).project(student.parameter(name).detach()) for name in ("1.weight", "2.weight", "2.bias")}
    student.encode(codes, dict.fromkeys(codes, Codebook(4)))
    student.edit(Fold((("0", "1"),)))
    assert set(student.codes) == {"2.weight", "2.bias"} and student.codes["2.bias"] is codes["2.bias"]


def test_activations_move_with_the_norm() -> None:
    """Quantized, then folded: the same in float64, with every place alive, and as if folded first."""
    torch.manual_seed(0)
    model, x = randomised(ResNetCifar(8)), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    task = task_of(model, x)
    student = Compressed(model)
    student.tap(Calibrated(6).taps(student, task))
    with torch.no_grad():
        before = student(x)
    moved = [place for place in student.sites if place.call.operator is Operator.NORMALIZE]
    assert moved and not torch.allclose(before, model(x), rtol=1e-4)
    (edit,) = FoldNorms().decide(student, task)
    student.edit(edit)
    ran: set[Place] = set()

    def note(place: Place, y: Tensor) -> Tensor:
        ran.add(place)
        return y

    with torch.no_grad(), watching(student.base, note):
        torch.testing.assert_close(student(x), before, rtol=1e-10, atol=1e-10)
    assert student.sites.keys() <= ran
    first = Compressed(model)
    first.edit(edit)
    assert {site.place for site in Calibrated(6).taps(first, task)} == set(student.sites)
    loaded, _ = file.load(file.encode(student), ResNetCifar(8).double())
    assert torch.equal(loaded(x), student(x)) and list(loaded.sites) == list(student.sites)


@pytest.mark.parametrize(
    "place", [Place(Call("layer", Operator.LINEAR), None), Place(Call("norm", Operator.NORMALIZE), 0)], ids=str
)
def test_what_is_quantized_between_a_layer_and_its_norm_is_not_folded(place: Place) -> None:
    model, x = pair("linear")
    student = Compressed(model)
    student.tap([TapSite(place, Quantizer(8, -128, torch.tensor(0.1)))])
    assert FoldNorms().decide(student, task_of(model, x)) == []
    with pytest.raises(SelectionError, match="fold first"):
        student.edit(Fold((("layer", "norm"),)))
    assert not student.edits and isinstance(student.base.norm, nn.BatchNorm1d)


@pytest.mark.parametrize(
    "pairs", [(("layer", "layer"),), (("norm", "norm"),), (("layer", "none"),), (("layer", "norm"),) * 2], ids=str
)
def test_what_cannot_be_folded(pairs: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(FormatError, match="to fold"):
        Fold(pairs).apply(pair("linear")[0])

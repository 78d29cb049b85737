"""Models as users have them: what is unusual in one does not keep the rest from it, or an error says what to give."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import featherweight as fw
from featherweight.core.errors import EngineError, TaskError
from featherweight.core.stage import Recipe, Stage, everywhere
from featherweight.papers import find
from featherweight.schemes.sparse import Fraction, Sparse
from featherweight.search.channels import Narrow
from featherweight.search.precision import post_training

IMAGES = torch.randn(32, 3, 12, 12, generator=torch.Generator().manual_seed(0))
VOLUMES = torch.randn(32, 27, 12, 12, generator=torch.Generator().manual_seed(2))
TEXTS = torch.randn(32, 9, 8, generator=torch.Generator().manual_seed(1))


class UNet(nn.Module):
    """Transposed convolutions read what the middle makes."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        strided, inner = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.Conv2d(16, 16, 1)
        self.middle = nn.Sequential(strided, nn.ReLU(), inner, nn.ReLU())
        self.up, self.out = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.down(x)
        outer: Tensor = self.out(torch.cat([wide, self.up(self.middle(wide))], 1))
        return outer


class Encoder(nn.Module):
    """Torch's own attention uses the weights of its projections without calling them."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.places = nn.Parameter(0.1 * torch.randn(1, 9, 8))
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        outer: Tensor = self.head(self.encoder(x + self.places).mean(1))
        return outer


class Bare(nn.Module):
    """Weights without a layer around them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(16, 8)), nn.Parameter(torch.randn(5, 16))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(x.mean(1), self.first)), self.second)


class Normed(nn.Module):
    """``weight_norm`` of before parametrizations: the weight is no parameter, and is made before every call."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.first = nn.utils.weight_norm(nn.Linear(8, 16))
        self.second = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        outer: Tensor = self.second(F.relu(self.first(x.mean(1))))
        return outer


def grouped() -> nn.Module:
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 12, 1), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))


def volumes() -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (3, 9)), nn.Conv3d(3, 6, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(600, 5))


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "u-net": (UNet, IMAGES),
    "encoder": (Encoder, TEXTS),
    "bare": (Bare, TEXTS),
    "weight norm": (Normed, TEXTS),
    "grouped": (grouped, IMAGES),
    "volumes": (volumes, VOLUMES),
}
RECIPES: dict[str, Callable[[], Recipe]] = {
    "int8": lambda: post_training(8, 8),
    **{name: find(name).recipe for name in ("gptq", "watersic", "adaround")},
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, x = MODELS[name]
    return make().eval(), x


@pytest.mark.parametrize(
    ("name", "recipe"),
    [(name, recipe) for name in MODELS for recipe in RECIPES if recipe != "adaround" or name == "bare"],
)
def test_it_is_compressed_saved_and_loaded(name: str, recipe: str, tmp_path: Path) -> None:
    model, x = made(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = fw.compress(model, RECIPES[recipe](), example=x[:1], calibration=[x])
    result.save(tmp_path / "m.fwt")
    loaded = fw.load(tmp_path / "m.fwt", made(name)[0])
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), result.student(x))
        wanted = model(x)
        assert float((loaded(x) - wanted).norm() / wanted.norm()) < 0.5
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["u-net", "encoder", "grouped"])
def test_channels_are_cut_where_they_can_be_weighed(name: str) -> None:
    model, x = made(name)
    recipe = Recipe("narrow", (Stage("cut", edit=Narrow(0.8)),))
    result = fw.compress(model, recipe, example=x[:1], calibration=[x])
    assert sum(p.numel() for p in result.model.parameters()) < sum(p.numel() for p in model.parameters())
    assert result.student(x).shape == model(x).shape


def test_what_nothing_is_known_of_is_not_cut() -> None:
    model, x = made("bare")
    recipe = Recipe("narrow", (Stage("cut", edit=Narrow(0.8)),))
    with pytest.raises(fw.SelectionError, match="no group of channels within .* can be cut: each needs layers"):
        fw.compress(model, recipe, example=x[:1], calibration=[x])


@pytest.mark.parametrize(
    ("wrap", "match"),
    [
        (nn.DataParallel, r"DataParallel; give what is within, model\.module,"),
        (torch.compile, r"OptimizedModule; give what is within, model\._orig_mod,"),
        (lambda model: torch.jit.trace(model, TEXTS[:1], check_trace=False), "TorchScript"),
    ],
)
def test_wrapped_models_are_refused(wrap: Callable[[nn.Module], nn.Module], match: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = wrap(made("bare")[0])
    with pytest.raises(TaskError, match=match):
        fw.compress(model, budget=fw.Budget(size=2_000), example=TEXTS[:1])


def test_tensors_of_inference_mode_are_refused() -> None:
    with torch.inference_mode():
        model = Bare()
    with pytest.raises(TaskError, match="inference_mode"):
        fw.compress(model, budget=fw.Budget(size=2_000), example=TEXTS[:1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_quantized_models_of_other_floats_are_no_files_of_engines(dtype: torch.dtype, tmp_path: Path) -> None:
    model, x = made("bare")
    model, x = model.to(dtype), x.to(dtype)
    result = fw.compress(model, post_training(8, 8), example=x[:1], calibration=[x])
    with pytest.raises(EngineError, match=r"float32 alone.*compress model\.float\(\)"):
        result.export(str(tmp_path / "m.pt2"))
    assert not (tmp_path / "m.pt2").exists()


def test_batches_that_a_model_cannot_take_are_an_error_of_ours() -> None:
    model, x = made("grouped")
    with pytest.raises(TaskError, match="cannot run on a batch of its data"):
        fw.compress(model, post_training(8, 8), example=x[:1], calibration=[x[:, :2]])


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_model_that_divides_by_zero_is_no_result(norm: Callable[[nn.Module], nn.Module]) -> None:
    """Rows of directions that are all zero have no length; the outputs would be NaN, and nothing would say so."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5)), torch.randn(20, 8)
    with torch.no_grad():
        model[0].weight[:3] *= 1e-3
    half = Recipe("half", (everywhere("prune", Sparse(Fraction(0.5))),))
    assert fw.compress(model, half, example=x[:1], calibration=[x]).student(x).isfinite().all()
    model[0] = norm(model[0])
    with pytest.raises(TaskError, match=r"not finite from '0.*' on.*weight_norm"):
        fw.compress(model, half, example=x[:1], calibration=[x])


def test_outputs_that_were_not_finite_before() -> None:
    """A mask of minus infinity in the outputs is the model's own."""
    x = torch.randn(20, 8)
    model = nn.Sequential(nn.Linear(8, 5), nn.Threshold(0.0, -math.inf))
    half = Recipe("half", (everywhere("prune", Sparse(Fraction(0.5))),))
    assert fw.compress(model, half, example=x[:1], calibration=[x]).size > 0

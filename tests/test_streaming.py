"""A model compressed from its safetensors, block by block: the same bytes as with all of it in memory."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from featherweight import file
from featherweight.core.errors import DataError, SelectionError
from featherweight.core.site import WEIGHTS, Sites
from featherweight.core.stage import Recipe, Stage, Training
from featherweight.core.task import Example, Task
from featherweight.graph.fold import FoldNorms
from featherweight.metrics.hessian import InputMoment, Kronecker
from featherweight.papers import gptq
from featherweight.run import run
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.uniform import PerChannel, Uniform
from featherweight.schemes.waterfilling import Waterfilling
from featherweight.solvers.reconstruction import BlockReconstruction
from featherweight.solvers.sweep import ColumnSweep
from featherweight.streaming import allocated_nowhere, compress_streamed

SIDE = Stage("side", {Sites(("*.bias",)): Float(Width.FLOAT16)})
RECIPES = [
    Recipe("gptq", (*gptq.recipe(bits=4).stages, SIDE)),
    Recipe("water", (Stage("sweep", {WEIGHTS: Waterfilling(1e-3)}, InputMoment(), ColumnSweep()),)),
    Recipe("rounded", (Stage("round", {WEIGHTS: Uniform(4, granularity=PerChannel())}), SIDE)),
]


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.query, self.key, self.value = nn.LayerNorm(width), *(nn.Linear(width, width) for _ in range(3))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + F.scaled_dot_product_attention(self.query(y), self.key(y), self.value(y), mask)
        z: Tensor = x + self.down(F.gelu(self.up(x)))
        return z


class Language(nn.Module):
    """A tied head, a parameter of its own, buffers with and without a place in the state, and a library's layer."""

    mask: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(13, 8), nn.Parameter(torch.randn(6, 8))
        self.blocks = nn.ModuleList(Block(8) for _ in range(3))
        self.last = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 13, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("mask", torch.ones(6, 6).tril().log(), persistent=False)
        self.register_buffer("shift", torch.zeros(8))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens) + self.places + self.shift
        for block in self.blocks:
            x = block(x, self.mask)
        x, _ = self.last(x, x, x, need_weights=False)
        y: Tensor = self.head(x)
        return y


TOKENS = torch.randint(13, (8, 6), generator=torch.Generator().manual_seed(0))
CALIBRATION = [TOKENS[:4], TOKENS[4:]]


def written(model: nn.Module, path: Path, rename: Callable[[str], str] = str) -> Path:
    kept = {rename(name): x.contiguous() for name, x in model.state_dict().items() if name != "head.weight"}
    save_file(kept, path)
    return path


def made() -> Language:
    torch.manual_seed(0)
    model = Language().eval()
    model.shift += 0.25
    return model


def whole(model: nn.Module, recipe: Recipe) -> bytes:
    task = Task("t", Language, lambda: model, lambda: Example((TOKENS,)), calibration=lambda: CALIBRATION)
    student, _ = run(model, task, recipe)
    return file.encode(student, recipe=recipe.name)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_the_bytes_are_those_of_the_model_in_memory(recipe: Recipe, tmp_path: Path) -> None:
    model = made()
    source = written(model, tmp_path / "model.safetensors")
    size = compress_streamed(Language, source, without_attention(recipe), tmp_path / "x.fwt", calibration=CALIBRATION)
    found = (tmp_path / "x.fwt").read_bytes()
    assert size == len(found) and found == whole(model, without_attention(recipe))
    student, _ = file.load(found, Language())
    assert not torch.equal(student(TOKENS), model(TOKENS))
    assert torch.equal(student.base.shift, model.shift)


def without_attention(recipe: Recipe) -> Recipe:
    """Its inner layers are not called, and no other stage needs to know what they meet."""
    first, *rest = recipe.stages
    where = Sites(exclude=("last.*", "places"), min_dims=2)
    stage = replace(first, schemes={where: next(iter(first.schemes.values()))})
    return Recipe(recipe.name, (stage, *rest))


def test_a_folder_of_several_files_and_other_names(tmp_path: Path) -> None:
    model, recipe = made(), without_attention(RECIPES[0])
    state = {f"model.{name}": x for name, x in model.state_dict().items() if name != "head.weight"}
    names = sorted(state)
    save_file({name: state[name] for name in names[::2]}, tmp_path / "one.safetensors")
    save_file({name: state[name] for name in names[1::2]}, tmp_path / "two.safetensors")
    out = tmp_path / "x.fwt"
    compress_streamed(Language, tmp_path, recipe, out, calibration=CALIBRATION, stored=lambda name: f"model.{name}")
    assert out.read_bytes() == whole(model, recipe)


def test_weights_in_half_precision_are_read_as_the_model_has_them(tmp_path: Path) -> None:
    model, recipe = made().half().float(), without_attention(RECIPES[0])
    save_file({n: x.half() for n, x in model.state_dict().items() if n != "head.weight"}, tmp_path / "m.safetensors")
    compress_streamed(Language, tmp_path / "m.safetensors", recipe, tmp_path / "x.fwt", calibration=CALIBRATION)
    assert (tmp_path / "x.fwt").read_bytes() == whole(model, recipe)


def test_a_transformer_of_the_library(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=32, n_embd=16, n_layer=3, n_head=2, n_positions=8)

    def architecture() -> nn.Module:
        model: nn.Module = transformers.GPT2LMHeadModel(config)
        return model

    torch.manual_seed(0)
    model = architecture().eval()
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    batches = [{"input_ids": torch.randint(32, (2, 8))} for _ in range(2)]
    scheme = Uniform(4, granularity=PerChannel())
    stage = Stage("sweep", {WEIGHTS: scheme}, InputMoment(required=False), ColumnSweep(required=False))
    recipe = Recipe("water", (stage,))
    compress_streamed(architecture, tmp_path, recipe, tmp_path / "x.fwt", calibration=batches)
    task = Task("t", architecture, lambda: model, lambda: Example(kwargs=batches[0]), calibration=lambda: batches)
    student, _ = run(model, task, recipe)
    assert (tmp_path / "x.fwt").read_bytes() == file.encode(student, recipe="water")


def test_parameters_are_nowhere_and_tied_ones_stay_tied() -> None:
    with allocated_nowhere():
        model = Language()
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert model.head.weight is model.table.weight and model.mask.device.type == "cpu"
    assert {p.device.type for p in Language().parameters()} == {"cpu"}


@pytest.mark.parametrize(
    ("stage", "match"),
    [
        (Stage("a", {WEIGHTS: Uniform(4)}, training=Training(1)), "learns"),
        (Stage("a", {WEIGHTS: Uniform(4)}, edit=FoldNorms()), "edits"),
        (Stage("a", {WEIGHTS: Uniform(4)}, projector=BlockReconstruction()), "reconstructs"),
        (Stage("a", {WEIGHTS: Uniform(4)}, Kronecker(), ColumnSweep()), "gradients"),
    ],
    ids=["learns", "edits", "reconstructs", "gradients"],
)
def test_what_needs_the_whole_model_is_refused(stage: Stage, match: str, tmp_path: Path) -> None:
    source = written(made(), tmp_path / "m.safetensors")
    with pytest.raises(SelectionError, match=match):
        compress_streamed(Language, source, Recipe("r", (stage,)), tmp_path / "x.fwt", calibration=CALIBRATION)
    assert not (tmp_path / "x.fwt").exists()


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    model, recipe = made(), without_attention(RECIPES[0])
    out = tmp_path / "x.fwt"
    with pytest.raises(DataError, match="no safetensors file"):
        compress_streamed(Language, tmp_path / "nothing.safetensors", recipe, out, calibration=CALIBRATION)
    (tmp_path / "bad.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="no safetensors file"):
        compress_streamed(Language, tmp_path / "bad.safetensors", recipe, out, calibration=CALIBRATION)
    source = written(model, tmp_path / "other.safetensors", rename=lambda name: name.replace("blocks", "layers"))
    with pytest.raises(DataError, match=r"no tensor 'blocks\.0"):
        compress_streamed(Language, source, recipe, out, calibration=CALIBRATION)
    model.blocks[0].up.weight = nn.Parameter(torch.zeros(2, 2))
    source = written(model, tmp_path / "shape.safetensors")
    with pytest.raises(DataError, match="has the shape"):
        compress_streamed(Language, source, recipe, out, calibration=CALIBRATION)

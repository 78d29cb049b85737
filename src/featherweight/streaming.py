"""Compressing a model that is larger than memory: block by block, from its safetensors to a file."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from featherweight import file
from featherweight.core.code import Code
from featherweight.core.compressed import Compressed
from featherweight.core.errors import DataError, SelectionError, naming
from featherweight.core.plan import PlannedStage, plan, plan_stage
from featherweight.core.scheme import Scheme
from featherweight.core.site import block_of, parameters
from featherweight.core.stage import Projector, Recipe, Stage
from featherweight.core.task import Data, Example, Task
from featherweight.metrics.hessian import Kronecker
from featherweight.run import project_sites, solve

INDEX = "model.safetensors.index.json"
"""In a folder of several files: which of them has which tensor."""


@torch.no_grad()
def compress_streamed(
    architecture: Callable[[], nn.Module],
    weights: str | PathLike[str],
    recipe: Recipe,
    path: str | PathLike[str],
    *,
    calibration: Data | None = None,
    stored: Callable[[str], str] = str,
) -> int:
    """Compress the model of a safetensors file, or of a folder of them, into a ``.fwt`` file; its size in bytes.

    ``architecture`` builds the module that the tensors are of; its parameters take no memory. Each block's are read
    while it runs or is compressed, and dropped; codes that are done wait in files of a temporary folder. So memory
    holds one block, what one tensor's projection takes, and what blocks give for the ``calibration`` batches, which
    have to be inputs of the model. ``stored`` is the name, in the files, of a parameter or buffer of the model.

    What is written are the bytes that :func:`featherweight.run.run` and :func:`featherweight.file.encode` give with the
    whole model in memory, and :func:`featherweight.file.load` reads them.

    Stages may have schemes, a metric and a column solver: ``SelectionError`` for learning, edits, taps, repairs, blocks
    that are reconstructed and gradients. A stage without a solver has all its weights in memory at once. ``DataError``
    where the files lack a tensor or have one of another shape.
    """
    for stage in recipe.stages:
        _check(stage)
    with allocated_nowhere():
        model = architecture()
    with TemporaryDirectory() as folder:
        student = Streamed(model.eval(), Tensors(Path(weights), stored), Path(folder))
        given = None if calibration is None else lambda: calibration
        task = Task(type(model).__name__, architecture, architecture, Example, calibration=given)
        plan(student.base, recipe)
        for stage in recipe.stages:
            with naming(f"stage {stage.name!r} of recipe {recipe.name!r}"):
                _carry_out(student, task, plan_stage(student.base, stage))
        return file.save(path, file.encode_each(student, student.tensors_code, recipe=recipe.name))


def _check(stage: Stage) -> None:
    solver = stage.projector
    for what, there in (
        ("learns", stage.training is not None),
        ("edits the structure", stage.edit is not None),
        ("taps activations", stage.tap is not None),
        ("repairs", bool(stage.repairs)),
        ("reconstructs blocks", solver is not None and not isinstance(solver, Projector)),
        ("measures gradients of the whole", isinstance(stage.metric, Kronecker)),
    ):
        if there:
            raise SelectionError(f"stage {stage.name!r} {what}, for which the model has to be in memory; use run")


def _carry_out(student: "Streamed", task: Task, planned: PlannedStage) -> None:
    stage = planned.stage
    schemes = {name: scheme.at(1.0) for name, scheme in planned.sites.items()}
    if isinstance(stage.projector, Projector):
        solve(student, task, stage.metric, stage.projector, schemes)
    else:
        project_sites(student, task, stage, schemes)


@contextmanager
def allocated_nowhere() -> Iterator[None]:
    """Parameters of modules that are made within are on the device ``meta``; buffers have their values."""
    register = nn.Module.register_parameter

    def emptied(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device.type != "meta":
            param = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
        register(self, name, param)

    nn.Module.register_parameter = emptied  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


class Tensors:
    """The tensors of a safetensors file, or of a folder of them, by the names of the model; read when asked for."""

    def __init__(self, path: Path, stored: Callable[[str], str]) -> None:
        self.path, self.stored = path, stored
        self._files: dict[str, Path] | None = None

    @property
    def files(self) -> Mapping[str, Path]:
        """Name in the files -> the file that has it."""
        if self._files is None:
            self._files = self._found()
        return self._files

    def _found(self) -> dict[str, Path]:
        index = self.path / INDEX
        try:
            if index.is_file():
                listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                return {name: self.path / each for name, each in listed.items()}
            paths = sorted(self.path.glob("*.safetensors")) if self.path.is_dir() else [self.path]
            found: dict[str, Path] = {}
            for each in paths:
                with safe_open(each, "pt") as opened:
                    found |= dict.fromkeys(opened.keys(), each)
        except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
            raise DataError(f"{self.path} is no safetensors file, and no folder of them ({error})") from error
        if not found:
            raise DataError(f"{self.path} has no tensors; name a .safetensors file or a folder of them")
        return found

    def get(self, names: Iterable[str], shape: tuple[int, ...]) -> Tensor | None:
        """The tensor that has one of these names; ``None`` where there is none. The file is mapped, not read."""
        for name in map(self.stored, names):
            if name in self.files:
                with safe_open(self.files[name], "pt") as opened:
                    found: Tensor = opened.get_tensor(name)
                if tuple(found.shape) != shape:
                    raise DataError(f"{name} of {self.path} has the shape {tuple(found.shape)}, the model's {shape}")
                return found
        return None


class Streamed(Compressed):
    """A student whose weights lie in files: each block's are in its module while that runs, and else nowhere.

    ``folder`` takes its codes.
    """

    def __init__(self, model: nn.Module, tensors: Tensors, folder: Path) -> None:
        super().__init__(model)
        self._tensors, self._folder = tensors, folder
        self._placed: dict[str, nn.Parameter] = {}
        for name, buffer in self.base.named_buffers():
            read = tensors.get([name], tuple(buffer.shape))
            if read is not None:
                buffer.copy_(read)
        self._install()

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def parameter(self, name: str) -> nn.Parameter:
        found = self.base.get_parameter(name)
        if found.device.type != "meta":
            return found
        return nn.Parameter(self._value(name, found), requires_grad=False)

    def encode(self, codes: Mapping[str, Code], schemes: Mapping[str, Scheme]) -> None:
        super().encode(codes, schemes)
        for name, code in codes.items():
            self._codes[name] = self._spilled(name, code)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._drop(list(self._placed))

    def tensors_code(self, name: str) -> Code:
        """The code of one tensor of the state: its own, or one that loses nothing."""
        if name in self._codes:
            return self._code(name)
        return file.exact(self.parameter(name) if name in self._names else self.base.get_buffer(name))

    def _value(self, name: str, like: Tensor) -> Tensor:
        if name in self._codes:
            return self._code(name).decode()
        found = self._tensors.get(self._names[name], tuple(like.shape))
        if found is None:
            raise DataError(f"{self._tensors.path} has no tensor {self._tensors.stored(name)!r}; give `stored`")
        return found.to(like.dtype)

    def _spilled(self, name: str, code: Code) -> Code:
        """The code without its numbers, which go to a file."""
        save_file({key: x.detach().contiguous() for key, x in code.tensors().items()}, self._folder / name)
        return code.map(lambda x: x.detach().to("meta"))

    def _code(self, name: str) -> Code:
        with safe_open(self._folder / name, "pt") as opened:
            return self._codes[name].with_tensors({key: opened.get_tensor(key) for key in opened.keys()})  # noqa: SIM118

    def _place(self, name: str, tensor: Tensor, trainable: bool = False) -> None:
        """Nothing is placed before it is needed."""

    def _install(self) -> None:
        """Whole blocks, and elsewhere what a module has itself, are there while it runs."""
        blocks = {block_of(self.base, first) for first, _, _ in parameters(self.base)}
        owned: dict[str, list[str]] = {path: [] for path, _ in self.base.named_modules()}
        for first, names, _ in parameters(self.base):
            for name in names:
                path = name.rpartition(".")[0]
                inside = next((b for b in blocks if path == b or path.startswith(b + ".")), path)
                owned[_around(self.base, inside)].append(first)
        for path, firsts in owned.items():
            if firsts:
                module = self.base.get_submodule(path)
                module.register_forward_pre_hook(self._entering(tuple(dict.fromkeys(firsts))))
                module.register_forward_hook(self._leaving(tuple(dict.fromkeys(firsts))))

    def _entering(self, firsts: tuple[str, ...]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            if "forward" in vars(module):  # it is told what to give, and does not run
                return
            for name in firsts:
                if name not in self._placed:
                    meta = self.base.get_parameter(name)
                    super(Streamed, self)._place(name, self._value(name, meta))
                    self._placed[name] = meta

        return enter

    def _leaving(self, firsts: tuple[str, ...]) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        return lambda module, args, result: self._drop(firsts)

    def _drop(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._placed:
                super()._place(name, self._placed.pop(name))


def _around(base: nn.Module, path: str) -> str:
    """The module to wait for: attention takes its inner layers' weights without calling them."""
    parts = path.split(".")
    for depth in range(len(parts)):
        above = ".".join(parts[:depth])
        if isinstance(base.get_submodule(above), nn.MultiheadAttention):
            return above
    return path

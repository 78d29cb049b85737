"""Cutting depth: blocks that give what they get, but for what they add, can be left out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from featherweight.core.code import Code
from featherweight.core.compressed import Compressed
from featherweight.core.edit import Edit
from featherweight.core.errors import FormatError, SchemeError, SelectionError
from featherweight.core.hooks import hooked
from featherweight.core.stage import EditRule
from featherweight.core.tap import Place
from featherweight.core.task import Example, Task, call, evaluating, moved, tensors_of


class Skipped(nn.Module):
    """In place of a block: its first input is its output."""

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        return x


@dataclass(frozen=True)
class Skip(Edit):
    """Blocks, by module path, that are left out. Their parameters go with them."""

    blocks: tuple[str, ...]
    identifier: ClassVar[str] = "skip"

    def apply(self, model: nn.Module) -> None:
        modules = dict(model.named_modules())
        for path in self.blocks:
            if path not in modules or not path:
                raise FormatError(f"the model has no block {path!r} to leave out")
            owner, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(owner), leaf, Skipped())

    def recode(self, model: nn.Module, name: str, code: Code) -> Code | None:
        return None if any(name.startswith(f"{path}.") for path in self.blocks) else code

    def retap(self, model: nn.Module, place: Place) -> Place:
        if any(f"{place.call.module}.".startswith(f"{path}.") for path in self.blocks):
            raise SelectionError(f"an activation within a block that is left out goes through a function ({place})")
        return place

    def to_json(self) -> dict[str, object]:
        return {"blocks": list(self.blocks)}

    @classmethod
    def from_json(cls, record: dict[str, object]) -> "Skip":
        blocks = record.get("blocks")
        if not isinstance(blocks, list) or not all(isinstance(each, str) for each in blocks):
            raise FormatError("the blocks that are left out are not a list of module paths")
        if len(set(blocks)) < len(blocks):
            raise FormatError("a block is left out twice")
        return cls(tuple(blocks))


def skippable(model: nn.Module, example: Example) -> list[str]:
    """Blocks in lists and sequences that run once and give one tensor of the shape and type of their first input.

    Only blocks of several layers: to leave out a single one would be another model than one with fewer blocks. A block
    within such a block is not counted.
    """
    shapes: dict[str, list[bool]] = {}

    def watch(path: str) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            pair = (*args[:1], output)
            alike = len(pair) == 2 and all(isinstance(each, Tensor) for each in pair)
            shapes.setdefault(path, []).append(alike and len({(each.shape, each.dtype) for each in pair}) == 1)

        return note

    paths = [path for path, module in model.named_modules() if _is_block(model, path, module)]
    hooks = (model.get_submodule(path).register_forward_hook(watch(path)) for path in paths)
    with hooked(hooks), evaluating(model), torch.no_grad():
        example.run(model)
    found = [path for path in paths if shapes.get(path) == [True]]
    return [path for path in found if not any(path.startswith(f"{other}.") for other in found)]


def _is_block(model: nn.Module, path: str, module: nn.Module) -> bool:
    within = model.get_submodule(path.rpartition(".")[0]) if path else None
    weights = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    return isinstance(within, nn.Sequential | nn.ModuleList) and len(weights) > 1


@dataclass(frozen=True)
class SkipBlocks(EditRule):
    """Leave out ``count`` blocks, one after another: each time the one without which the outputs change least.

    The change is ``‖y − ŷ‖² / ‖y‖²`` of the model's outputs over ``batches`` calibration batches, as the student
    stands before. Blocks are those of :func:`skippable`.
    """

    count: int
    batches: int = 2

    def __post_init__(self) -> None:
        if self.count < 1:
            raise SchemeError(f"{self.count} blocks to leave out; give 1 or more")

    @torch.no_grad()
    def decide(self, student: Compressed, task: Task) -> Sequence[Edit]:
        able = skippable(student.base, task.example())
        if len(able) < self.count:
            raise SelectionError(f"{self.count} blocks cannot be left out: the model has {len(able)} that could be")
        data = [moved(batch, student.device) for batch in islice(iter(task.calibration_data()), self.batches)]
        with evaluating(student):
            wanted = [tensors_of(call(student, batch)) for batch in data]
        gone: list[str] = []
        for _ in range(self.count):
            errors = {path: _error(student, (*gone, path), data, wanted) for path in able if path not in gone}
            gone.append(min(errors, key=errors.__getitem__))
        return [Skip(tuple(sorted(gone, key=able.index)))]


def _error(student: Compressed, blocks: tuple[str, ...], data: list[Any], wanted: list[list[Tensor]]) -> float:
    small = Compressed(student.base).eval()
    Skip(blocks).apply(small.base)
    apart, size = 0.0, 0.0
    for batch, ours in zip(data, wanted, strict=True):
        for y, other in zip(ours, tensors_of(call(small, batch)), strict=True):
            apart += float((y - other).double().square().sum())
            size += float(y.double().square().sum())
    return apart / max(size, 1e-300)

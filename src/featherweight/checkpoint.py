"""What a killed run goes on from: the student and the optimizer after an epoch, in safetensors, without pickles."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from featherweight.activations.agents import Deciding
from featherweight.activations.fixed_point import LimitedPrecision
from featherweight.activations.gates import Factors, GroupNoise, HardConcrete, Scaling
from featherweight.activations.learned import Clipped, MovingRange, QuantizedGradient, ShiftedError
from featherweight.activations.logarithmic import LogGradient
from featherweight.activations.memberships import Assigned, Membership
from featherweight.coding import write_atomic
from featherweight.core.code import Code, Layout, Role
from featherweight.core.compressed import Compressed
from featherweight.core.errors import DataError
from featherweight.core.scheme import Scheme
from featherweight.core.shared import referenced, resolved
from featherweight.core.stage import Learn, Recipe
from featherweight.core.tap import Function, Place, TapSite
from featherweight.file import DTYPES, EDITS, FUNCTIONS, KINDS, place_record, read_place
from featherweight.training.parallel import first

FILE = "checkpoint.safetensors"
TAPPED: dict[str, type[Function]] = {
    **FUNCTIONS,
    **{each.identifier: each for each in (Clipped, MovingRange, QuantizedGradient, LogGradient, LimitedPrecision)},
    ShiftedError.identifier: ShiftedError,
    **{each.identifier: each for each in (Assigned, Deciding, Factors, GroupNoise, HardConcrete, Membership, Scaling)},
}
"""Name in a checkpoint -> class of what activations are sent through: those of files, and those that only learn."""


@dataclass(frozen=True)
class Position:
    """How far a run has come: ``epochs`` of stage number ``stage`` are done; 0 is before its projection."""

    stage: int
    epochs: int


@dataclass(frozen=True)
class Checkpoint:
    """A folder with one file, for one run: ``identity`` is the run's fingerprint."""

    folder: Path
    identity: str

    def keep(self, position: Position, student: Compressed, optimizer: torch.optim.Optimizer | None) -> None:
        """Write the state of the run, whole or not at all, over the one before; of several processes the first does."""
        if not first():
            return
        record, tensors = _student_record(student)
        record |= {"identity": self.identity, "position": [position.stage, position.epochs]}
        if optimizer is not None:
            state = optimizer.state_dict()
            record["groups"] = state["param_groups"]
            for index, values in state["state"].items():
                tensors |= {f"optimizer/{index}/{key}": _tensor(value) for key, value in values.items()}
        # One by one: safetensors refuses tensors that share memory, as tied weights do.
        whole = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record)
        write_atomic(self.folder / FILE, save(whole, {"run": text, "digest": _digest(text, whole)}))

    def restore(
        self, student: Compressed, schemes_of: Callable[[Position], Mapping[str, Scheme]]
    ) -> tuple[Position, dict[str, Any] | None]:
        """Put the student where the run was left; the position, and the optimizer's state inside a stage.

        The beginning where there is no checkpoint; ``DataError`` where it is another run's or damaged.
        ``schemes_of(position)``, asked after edits are replayed, gives the schemes in force.
        """
        path = self.folder / FILE
        if not path.exists():
            return Position(0, 0), None
        record, tensors = _read(path)
        if record["identity"] != self.identity:
            raise DataError(f"{path} belongs to another model or recipe; delete it, or choose another folder")
        if "taps" not in record:
            raise DataError(f"{path} is of an earlier version, which kept no taps; delete it to start again")
        for name, value in record["edits"]:
            student.edit(EDITS[name].from_json(value))
        student.tap(site for row in record["taps"] for site in _tap_sites(*row))
        student.taps.to(student.device)
        position = Position(*record["position"])
        schemes = schemes_of(position)
        codes = resolved({name: _code(name, entry, tensors) for name, entry in record["codes"].items()})
        student.encode(codes, {name: schemes[name] for name in codes})
        if position.epochs:
            student.learn({name: Learn(value) for name, value in record["learning"].items()}, record["rest"])
        base = {name.removeprefix("base/"): value for name, value in tensors.items() if name.startswith("base/")}
        student.resume(base)
        student.taps.load_state_dict({k.removeprefix("tap/"): v for k, v in tensors.items() if k.startswith("tap/")})
        return position, _optimizer_state(record, tensors)


def checkpoint(folder: Path, model: nn.Module, recipe: Recipe) -> Checkpoint:
    """The checkpoint of ``recipe`` on ``model``: known by the model's tensors and the recipe's settings."""
    return Checkpoint(folder, _digest(recipe.settings, model.state_dict()))


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a text and of the names, types, shapes and bytes of tensors."""
    digest = sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, device="cpu")


def _student_record(student: Compressed) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tensors = {f"base/{name}": value for name, value in student.base.state_dict().items()}
    layouts = {}
    for name, code in referenced(student.codes).items():
        layouts[name] = [list(code.shape), str(code.dtype).removeprefix("torch."), _layout_record(code.layout())]
        tensors |= {f"stream/{name}/{stream.name}": stream.values for stream in code.streams()}
        tensors |= {f"field/{name}/{path}": value for path, value in code.tensors(Role.DIRECT).items()}
    tensors |= {f"tap/{name}": value for name, value in student.taps.state_dict().items()}
    coded = student.codes.keys()
    return {
        "codes": layouts,
        "learning": {name: mode.value for name, mode in student.learning.items()},
        "rest": any(p.requires_grad for name, p in student.base.named_parameters() if name not in coded),
        "edits": [[edit.identifier, edit.to_json()] for edit in student.edits],
        "taps": _tap_rows(student.sites),
    }, tensors


def _tap_rows(sites: Mapping[Place, Function]) -> list[Any]:
    """A row for each function, in the order of their state: its class, settings, what of it learns, and its places."""
    rows = []
    for function in dict.fromkeys(sites.values()):
        places = [place for place, other in sites.items() if other is function]
        if TAPPED.get(function.identifier) is not type(function):
            name = type(function).__name__
            raise DataError(f"{places[0]} is sent through {name}, which no checkpoint holds; run without a folder")
        learning = [name for name, parameter in function.named_parameters() if parameter.requires_grad]
        rows.append([function.identifier, function.to_json(), learning, [place_record(place) for place in places]])
    return rows


def _tap_sites(identifier: str, settings: list[Any], learning: list[str], places: list[list[Any]]) -> list[TapSite]:
    function = TAPPED[identifier].from_json(settings)
    for name, parameter in function.named_parameters():
        parameter.requires_grad_(name in learning)
    return [TapSite(read_place(*each), function) for each in places]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as opened:
            found = opened.metadata()
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if found["digest"] != _digest(found["run"], tensors):
            raise ValueError("its contents do not have its checksum")
        return json.loads(found["run"]), tensors
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it to start again") from error


def _layout_record(layout: Layout) -> list[Any]:
    number = next(number for number, kind in KINDS.items() if kind is layout.kind)
    return [number, list(layout.settings), [_layout_record(part) for part in layout.parts]]


def _layout(record: list[Any]) -> Layout:
    number, settings, parts = record
    return Layout(KINDS[number], tuple(settings), tuple(_layout(part) for part in parts))


def _code(name: str, entry: list[Any], tensors: dict[str, Tensor]) -> Code:
    """The code as it was: its streams hold the stored widths, its fields what was being learned."""
    shape, dtype, layout = entry[0], DTYPES[entry[1]], _layout(entry[2])

    def take(stream: str, shape: tuple[int, ...], alphabet: int) -> Tensor:
        return tensors[f"stream/{name}/{stream}"].reshape(shape)

    code = layout.kind.from_streams(layout, tuple(shape), dtype, take)
    prefix = f"field/{name}/"
    return code.with_tensors({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})


def _optimizer_state(record: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any] | None:
    if "groups" not in record:
        return None
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        kind, _, key = name.partition("/")
        if kind == "optimizer":
            index, _, field = key.partition("/")
            state.setdefault(int(index), {})[field] = value
    return {"state": state, "param_groups": record["groups"]}

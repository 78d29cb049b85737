"""Runs of a student on calibration data that begin behind the blocks that are compressed already."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import TaskError
from featherweight.core.hooks import Seen
from featherweight.core.site import block_of, parameters
from featherweight.core.task import Batch, Task, call, each_tensor, evaluating, moved, order_for, tensors_of

SPILL = 1 << 28
"""Bytes of blocks' outputs that are held in memory; what is over it lies in files until the next block is reached."""


class _Stale(Seen):
    """Something needs what a block gave that was not run again."""


class Collector(Protocol):
    """Is given the positional arguments of a layer, call by call."""

    def add(self, args: tuple[Any, ...], /) -> None: ...


C = TypeVar("C", bound=Collector)

Key = tuple[Any, ...]
Likeness = Callable[[nn.Module, str], Key | None]
"""Of a layer and its parameter: equal for those that are multiplied with the same where the same tensor comes in."""


@dataclass
class Flow:
    """What one run of the model showed. Steps count entries of modules, and exits.

    first   path of a module -> the step of its first call
    calls   path of a module -> how many calls
    left    path of a block that gives tensors, or tuples, lists and dictionaries of them -> the step of its last exit
    leader  path of a layer -> the first layer that took in the very same tensor, in the same way
    """

    clock: int = 0
    first: dict[str, int] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    left: dict[str, int] = field(default_factory=dict)
    leader: dict[str, str] = field(default_factory=dict)

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def step(self, names: Sequence[str]) -> int:
        """The earliest step at which a parameter of these names can be used: when a module around it is entered."""
        return min(self._entered(name.rpartition(".")[0]) for name in names)

    def _entered(self, path: str) -> int:
        while path and path not in self.first:
            path = path.rpartition(".")[0]
        return self.first.get(path, 0)


class Prefix:
    """Gives collectors what layers take in, layer by layer in the order in which they are compressed.

    Blocks are the outermost modules of classes that the model has several of
    (:func:`featherweight.core.site.block_of`). The calibration batches' outputs of the last block behind which all is
    compressed are held, and it gives them again instead of running; blocks before it give NaN. What is between blocks
    runs as it always does. So each block runs as often as it has layers, and once more, where a run from the start for
    every layer would be quadratic in the depth; and a layer's inputs are the very same numbers. Where something
    needs what a block gave that is further back, NaN shows it, and everything is run from the start again.
    """

    def __init__(
        self,
        student: Compressed,
        task: Task,
        batches: Sequence[Batch] | int,
        calls: Mapping[str, int] | None = None,
        parts: Sequence[Sequence[str]] = (),
        blocks: Sequence[str] = (),
        behind: Mapping[str, int] | None = None,
        order: Callable[[Batch], Batch] | None = None,
    ) -> None:
        """``behind``: name of a parameter -> how many of ``blocks`` need not be run when it is measured."""
        self.student, self.task, self.batches = student, task, batches
        self.calls, self.parts, self.blocks, self.behind = calls, parts, blocks, behind or {}
        self.order = order or order_for(task, student.base)
        self.stubs: list[list[Any]] = []
        self.held = _Held()

    def collect(self, name: str, make: Callable[[], C]) -> C:
        """A new collector that was given all that the layer of the parameter takes in."""
        with evaluating(self.student):
            try:
                while len(self.stubs) < self.behind.get(name, 0):
                    self._advance()
                return self._collected(name, make())
            except _Stale:
                self.behind, self.stubs = {}, []
                self.held.clear()
                return self._collected(name, make())

    def shared(self, names: Sequence[str]) -> list[list[str]]:
        """The names in lists of those whose layers take in the same."""
        of = {name: number for number, part in enumerate(self.parts) for name in part}
        found: dict[Any, list[str]] = {}
        for name in names:
            found.setdefault(of.get(name, name), []).append(name)
        return list(found.values())

    def _collected(self, name: str, collector: C) -> C:
        path = name.rpartition(".")[0]
        expected = None if self.calls is None else self.calls.get(path, 0)
        calls = 0

        def look(module: nn.Module, args: tuple[Any, ...]) -> None:
            nonlocal calls
            calls += 1
            self._check(args)
            collector.add(args)
            if calls == expected:
                raise Seen

        if expected == 0:
            return collector
        with self.student.base.get_submodule(path).register_forward_pre_hook(look):
            for number, batch in enumerate(self._batches()):
                calls = 0
                self._run(number, batch)
                expected = expected or calls
                if not expected:
                    break
        return collector

    def _advance(self) -> None:
        """Run one block more, hold what it gives, and forget the one before."""
        given, stubs = _Held(), []

        def keep(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
            self._check(result)
            given.append(each_tensor(result, torch.detach))
            stubs.append(each_tensor(result, _nothing))
            raise Seen

        block = self.student.base.get_submodule(self.blocks[len(self.stubs)])
        with block.register_forward_hook(keep):
            for number, batch in enumerate(self._batches()):
                self._run(number, batch)
        self.held.clear()
        self.held = given
        self.stubs.append(stubs)

    def _check(self, values: Any) -> None:
        if self.stubs and any(bool(torch.isnan(x).any()) for x in tensors_of(values)):
            raise _Stale

    def _run(self, number: int, batch: Batch) -> None:
        with ExitStack() as stack:
            for path, stubs in zip(self.blocks, self.stubs, strict=False):
                stack.enter_context(_giving(self.student.base.get_submodule(path), stubs[number]))
            if self.stubs:
                last = self.student.base.get_submodule(self.blocks[len(self.stubs) - 1])
                stack.enter_context(_giving(last, self.held[number]))
            try:
                call(self.student, batch)
            except _Stale:
                raise
            except Seen:
                pass
            except TaskError:
                if self.stubs:
                    raise _Stale from None
                raise

    def _batches(self) -> Iterator[Batch]:
        count = self.batches
        source = islice(iter(self.task.calibration_data()), count) if isinstance(count, int) else count
        return (self.order(moved(batch, self.student.device)) for batch in source)


@torch.no_grad()
def observed(student: Compressed, names: Sequence[str], task: Task, batches: int, likeness: Likeness) -> Prefix:
    """Run the first calibration batch, and find what may be measured together and behind which blocks.

    Batches are drawn once: they may come in a new order every time.
    """
    drawn = list(islice(iter(task.calibration_data()), batches))
    if not drawn or not names:
        return Prefix(student, task, drawn)
    paths = {block_of(student.base, first) for first, _, _ in parameters(student.base)}
    blocks = {path for path in paths if next(student.base.get_submodule(path).children(), None) is not None}
    keys = {name.rpartition(".")[0]: likeness(owner(student, name), name) for name in names}
    images = order_for(task, student.base)
    first = images(moved(drawn[0], student.device))
    with evaluating(student), _watching(student.base, blocks, keys) as flow:
        call(student, first)
    steps = {name: flow.step(student.names.get(name, (name,))) for name in names}
    parts = _parts(names, steps, flow)
    order = [name for part in parts for name in part]
    once = sorted((path for path in blocks & flow.left.keys() if flow.calls[path] == 1), key=lambda p: flow.left[p])
    behind, least = {}, max(steps.values())
    for name in reversed(order):
        least = min(least, steps[name])
        behind[name] = sum(flow.left[path] < least for path in once)
    return Prefix(student, task, drawn, flow.calls, parts, once, behind, images)


def _parts(names: Sequence[str], steps: Mapping[str, int], flow: Flow) -> list[list[str]]:
    """Names whose layers take in the same tensor together, where nothing that is before it is compressed in between."""
    parts: list[list[str]] = []
    latest: dict[str, tuple[list[str], int]] = {}
    for number, name in enumerate(names):
        path = name.rpartition(".")[0]
        leader = flow.leader.get(path)
        part, begun = latest.get(leader, ([], 0)) if leader is not None else ([], 0)
        alone = flow.calls[path] != 1 or (leader is not None and flow.calls[leader] != 1)
        if part and not alone and all(steps[each] >= steps[part[0]] for each in names[begun:number]):
            part.append(name)
            continue
        parts.append([name])
        if leader is not None:
            latest[leader] = (parts[-1], number)
    return parts


@contextmanager
def _watching(base: nn.Module, blocks: set[str], keys: Mapping[str, Key | None]) -> Iterator[Flow]:
    """What the model does while it runs within."""
    flow = Flow()
    met: list[tuple[weakref.ref[Tensor], int, Key, str]] = []

    def enter(path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def note(module: nn.Module, args: tuple[Any, ...]) -> None:
            flow.calls[path] += 1
            flow.first.setdefault(path, flow.tick())
            key = keys.get(path)
            if key is None or len(args) != 1 or not isinstance(args[0], Tensor):
                return
            x = args[0]
            same = [who for ref, version, other, who in met if ref() is x and version == x._version and other == key]
            flow.leader[path] = same[0] if same else path
            met.append((weakref.ref(x), x._version, key, flow.leader[path]))

        return note

    def leave(path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def note(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
            if _plain(result):
                flow.left[path] = flow.tick()

        return note

    with ExitStack() as stack:
        for path, module in base.named_modules():
            stack.enter_context(module.register_forward_pre_hook(enter(path)))
            if path in blocks:
                stack.enter_context(module.register_forward_hook(leave(path)))
        yield flow


def _plain(result: Any) -> bool:
    """Whether it is a tensor, or made of them by what :func:`featherweight.core.task.each_tensor` makes anew."""
    if type(result) in (tuple, list):
        return all(map(_plain, result))
    if type(result) is dict:
        return all(map(_plain, result.values()))
    return result is None or type(result) is Tensor


def _nothing(x: Tensor) -> Tensor:
    """NaN, or zeros of integers, of the shape of ``x`` and in the memory of one number."""
    one = torch.full((), float("nan") if x.is_floating_point() else 0, dtype=x.dtype, device=x.device)
    return one.expand(x.shape)


@contextmanager
def _giving(module: nn.Module, value: Any) -> Iterator[None]:
    """The module gives ``value``, as often as it is called, and does nothing."""
    before = vars(module).get("forward")
    vars(module)["forward"] = lambda *args, **kwargs: value
    try:
        yield
    finally:
        if before is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = before


class _Held:
    """Values by their number; copies are given out, since models may write into what they are given."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.bytes = 0
        self.folder: Path | None = None

    def append(self, value: Any) -> None:
        size = sum(x.numel() * x.element_size() for x in tensors_of(value))
        if self.bytes + size > SPILL:
            if self.folder is None:
                self.folder = Path(mkdtemp())
                weakref.finalize(self, rmtree, self.folder, ignore_errors=True)
            path = self.folder / str(len(self.values))
            torch.save(value, path)
            value = path
        else:
            self.bytes += size
        self.values.append(value)

    def __getitem__(self, number: int) -> Any:
        value = self.values[number]
        return torch.load(value, weights_only=True) if isinstance(value, Path) else each_tensor(value, torch.clone)

    def clear(self) -> None:
        self.values, self.bytes = [], 0
        if self.folder is not None:
            rmtree(self.folder, ignore_errors=True)
            self.folder = None


def calibration(student: Compressed, task: Task, batches: int) -> Iterator[Batch]:
    """Calibration batches on the student's device; images in the order of memory that it is fastest in."""
    order = order_for(task, student.base)  # now, and not where the first batch is asked for and the student is watched
    return (order(moved(batch, student.device)) for batch in islice(iter(task.calibration_data()), batches))


def owner(student: Compressed, name: str) -> nn.Module:
    """The module that has the parameter."""
    return student.base.get_submodule(name.rpartition(".")[0])

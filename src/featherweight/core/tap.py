"""Where activations are, and functions that they are sent through.

An activation is an operand or the result of an operation. Operations are counted while the model runs, by module path,
operator and ordinal, so that joins such as ``x += y``, which no module owns, have a name too. A traced graph counts
alike (``featherweight.graph.sites``).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from inspect import isfunction, signature
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from featherweight.core.hooks import hooked


class Operator(Enum):
    """The operations at which activations have places."""

    CONVOLVE = "convolve"
    LINEAR = "linear"
    MATMUL = "matmul"
    ADD = "add"
    MULTIPLY = "multiply"
    CAT = "cat"
    MEAN = "mean"
    POOL = "pool"  # averages over windows; a maximum only passes values on
    RELU = "relu"
    RELU6 = "relu6"
    ACTIVATE = "activate"  # any other function of each entry
    NORMALIZE = "normalize"


FUNCTIONS: Mapping[Any, Operator] = {
    function: operator
    for operator, functions in {
        Operator.CONVOLVE: (torch.conv1d, torch.conv2d, torch.conv3d),
        Operator.LINEAR: (F.linear,),
        Operator.MATMUL: (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm),
        Operator.ADD: (torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__),
        Operator.MULTIPLY: (torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__),
        Operator.CAT: (torch.cat, torch.concat, torch.concatenate),
        Operator.MEAN: (torch.mean, Tensor.mean),
        Operator.POOL: (F.adaptive_avg_pool2d, F.avg_pool2d),
        Operator.RELU: (torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu, F.relu_),
        Operator.RELU6: (F.relu6, F.hardtanh),
        Operator.ACTIVATE: (
            F.silu, F.gelu, F.hardswish, F.sigmoid, torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_,
            F.tanh, torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_,
        ),
        Operator.NORMALIZE: (F.batch_norm, F.layer_norm),
    }.items()
    for function in functions
}  # fmt: skip
"""What a model calls -> the operation it is. Operations on numbers (``x + 1``) are none."""

WRITING = frozenset(
    each for each in FUNCTIONS if each.__name__.startswith("__i") or each.__name__.rstrip("_") + "_" == each.__name__
)
"""Those that write their result to their first operand: ``add_``, ``__iadd__``."""

INPLACE: Mapping[Any, int] = {
    each: list(signature(each).parameters).index("inplace")
    for each in FUNCTIONS
    if isfunction(each) and "inplace" in signature(each).parameters
}
"""Those that are told to -> the position of ``inplace`` among their arguments."""

JOINS = frozenset({Operator.ADD, Operator.MULTIPLY, Operator.CAT, Operator.MATMUL})
"""Operations that count only where two tensors or more meet."""


@dataclass(frozen=True)
class Call:
    """The ``ordinal``-th call of ``operator`` made directly by ``module`` in one run of the model, from zero."""

    module: str
    operator: Operator
    ordinal: int = 0

    def __str__(self) -> str:
        number = f" {self.ordinal + 1}" if self.ordinal else ""
        return f"{self.module or 'the model'}: {self.operator.value}{number}"


@dataclass(frozen=True)
class Place:
    """An activation: the operand of this number of a call, or its result where ``operand`` is ``None``."""

    call: Call
    operand: int | None = 0

    def __str__(self) -> str:
        return f"{self.call}, {'result' if self.operand is None else f'operand {self.operand + 1}'}"


Visit = Callable[[Place, Tensor], Tensor]
"""Takes the activation at a place and returns what the model goes on with."""


class Watcher:
    """Counts the calls of one model while it runs and shows activations to ``visit``; copies along with the model.

    ``places`` are those that are shown; ``None`` shows all. What a submodule does when it is called by itself, and not
    within the model, is not seen.
    """

    def __init__(self, visit: Visit, places: Sequence[Place] | None = None) -> None:
        self.visit = visit
        self.places: frozenset[Place] | None = None
        self.calls: frozenset[Call] | None = None
        if places is not None:
            self.watch(places)
        self.path: list[str] = []
        self.counts: dict[tuple[str, Operator], int] = {}
        self.mode: _Mode | None = None

    def watch(self, places: Iterable[Place]) -> None:
        """Show these places from now on, and no others."""
        self.places = frozenset(places)
        self.calls = frozenset(place.call for place in self.places)

    def install(self, model: nn.Module) -> list[torch.utils.hooks.RemovableHandle]:
        """Hooks on every module of the model; removing them all ends the watching."""
        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(partial(_enter, self, name), prepend=True))
            handles.append(module.register_forward_hook(partial(_leave, self, name), always_call=True))
        return handles

    def reset(self) -> None:
        """End a run that was broken off by what no hook is told of, such as an interrupt from the keyboard."""
        mode, self.mode, self.path = self.mode, None, []
        if mode is not None:
            mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def called(self, operator: Operator, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Carry out one call, with its operands and its result shown."""
        args, kwargs = _positional(operator, args, kwargs)
        operands = _operands(operator, args)
        if not operands or (operator in JOINS and len(operands) < 2):
            return function(*args, **kwargs)
        key = (self.path[-1], operator)
        ordinal = self.counts.get(key, 0)
        self.counts[key] = ordinal + 1
        call = Call(*key, ordinal)
        if self.calls is not None and call not in self.calls:
            return function(*args, **kwargs)
        if 0 in operands and _in_place(function, args, kwargs):
            return self._called_in_place(call, function, args, kwargs, operands)
        shown = {number: self._shown(Place(call, number), operand) for number, operand in operands.items()}
        outcome = function(*_replaced(operator, args, shown), **kwargs)
        return self._shown(Place(call, None), outcome) if isinstance(outcome, Tensor) else outcome

    def _called_in_place(
        self, call: Call, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], operands: dict[int, Tensor]
    ) -> Tensor:
        """The same where the first operand is written to: it, and all that share its memory, hold the shown result.

        It is made of copies: what functions and the operation itself keep for their gradients must not change.
        """
        shown = {number: self._shown(Place(call, number), operand.clone()) for number, operand in operands.items()}
        shown[0] = shown[0].clone()
        outcome: Tensor = function(*_replaced(call.operator, args, shown), **kwargs)
        return operands[0].copy_(self._shown(Place(call, None), outcome))

    def _shown(self, place: Place, x: Tensor) -> Tensor:
        return self.visit(place, x) if self.places is None or place in self.places else x


class _Mode(TorchFunctionMode):
    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        self.watcher = watcher

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        operator = FUNCTIONS.get(func)
        if operator is None or not self.watcher.path:
            return func(*args, **(kwargs or {}))
        return self.watcher.called(operator, func, args, kwargs or {})


def _enter(watcher: Watcher, name: str, module: nn.Module, args: Any) -> None:
    if name == "" and watcher.mode is None:
        watcher.path, watcher.counts = [], {}
        watcher.mode = _Mode(watcher)
        watcher.mode.__enter__()  # type: ignore[no-untyped-call]
    if watcher.mode is not None:
        watcher.path.append(name)


def _leave(watcher: Watcher, name: str, module: nn.Module, args: Any, output: Any) -> None:
    if watcher.mode is None:
        return
    watcher.path.pop()
    if not watcher.path:
        watcher.reset()


def _in_place(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call writes its result to its first operand: by the function's name, or by its ``inplace``."""
    if function in WRITING:
        return True
    at = INPLACE.get(function)
    return at is not None and bool(args[at] if at < len(args) else kwargs.get("inplace", False))


def _positional(
    operator: Operator, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call with its operands by position, where they were given by name."""
    names: tuple[tuple[str, ...], ...] = (("tensors",) if operator is Operator.CAT else ("input",),)
    if operator in JOINS and operator is not Operator.CAT:
        names += (("other", "mat2"),)
    rest = dict(kwargs)
    for position, each in enumerate(names):
        if len(args) == position:
            args += tuple(rest.pop(name) for name in each if name in rest)
    return args, rest


def _operands(operator: Operator, args: tuple[Any, ...]) -> dict[int, Tensor]:
    """Number -> operand, for tensors of real numbers; weights are none."""
    if not args:
        return {}
    if operator is Operator.CAT:
        given: Sequence[Any] = args[0]
    else:
        given = args[:2] if operator in JOINS else args[:1]
    return {n: x for n, x in enumerate(given) if isinstance(x, Tensor) and x.is_floating_point() and x.ndim > 0}


def _replaced(operator: Operator, args: tuple[Any, ...], shown: Mapping[int, Tensor]) -> tuple[Any, ...]:
    if operator is Operator.CAT:
        return ([shown.get(n, x) for n, x in enumerate(args[0])], *args[1:])
    return tuple(shown.get(n, x) for n, x in enumerate(args))


@contextmanager
def watching(model: nn.Module, visit: Visit, places: Sequence[Place] | None = None) -> Iterator[None]:
    """Show activations of ``model`` to ``visit`` within the block."""
    watcher = Watcher(visit, places)
    with hooked(watcher.install(model)):
        try:
            yield
        finally:
            watcher.reset()


class Function(nn.Module, ABC):
    """What an activation is sent through; it can learn."""

    identifier: ClassVar[str]
    """What files and checkpoints call the class."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The activation that the model goes on with, of the shape and type of ``x``."""

    @abstractmethod
    def settled(self) -> "StoredFunction | None":
        """What stays when learning ends; ``None`` for what is of use to learning alone."""

    @abstractmethod
    def to_json(self) -> list[Any]:
        """Everything that :meth:`from_json` needs, as JSON values, but for the tensors of its state."""

    @classmethod
    @abstractmethod
    def from_json(cls, record: list[Any]) -> "Function":
        """A function with these settings, whose state is loaded afterwards; ``FormatError`` on anything else."""


class StoredFunction(Function):
    """A function that a file can hold: its settings say everything, tensors too."""

    def settled(self) -> "StoredFunction | None":
        return self

    @classmethod
    @abstractmethod
    def from_json(cls, record: list[Any]) -> "StoredFunction":
        """Inverse of :meth:`to_json`; ``FormatError`` on anything else."""


class Taps:
    """Sends activations through functions; several places may share one. Copies along with the model it is in."""

    def __init__(self, functions: Mapping[Place, Function]) -> None:
        self.functions = dict(functions)

    def __call__(self, place: Place, x: Tensor) -> Tensor:
        y: Tensor = self.functions[place](x)
        return y


@dataclass(frozen=True, eq=False)
class TapSite:
    """An activation, and the module that it is sent through."""

    place: Place
    function: Function

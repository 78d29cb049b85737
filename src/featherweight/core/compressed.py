"""The working model: a base module, and codes for some of its tensors."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from featherweight.core.code import Code, Role
from featherweight.core.edit import Edit
from featherweight.core.errors import SelectionError, TaskError
from featherweight.core.metric import EUCLIDEAN
from featherweight.core.scheme import Scheme
from featherweight.core.site import parameters
from featherweight.core.stage import Learn
from featherweight.core.tap import Function, Place, Taps, TapSite, Watcher
from featherweight.core.task import device_of

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
COMPILED = "_orig_mod"
"""Where ``torch.compile`` has the module that it was given."""


def assign(model: nn.Module, names: Iterable[str], parameter: nn.Parameter) -> None:
    """Put one parameter under all of ``names``; by attribute, since recurrent modules keep a second list of theirs."""
    for name in names:
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, parameter)


def twin(model: nn.Module) -> nn.Module:
    """A copy with modules, buffers and hooks of its own; its parameters share the memory of the model's and are frozen.

    Parameters are new objects, so that no gradient and no optimizer can reach the model's through the copy. Tensors
    that modules have computed from them, as ``torch.nn.utils.weight_norm`` does before every call, are copied as they
    stand. ``TaskError`` for a wrapper, TorchScript, and tensors of ``inference_mode``.
    """
    _check(model)
    shared: dict[int, Tensor] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    for module in model.modules():
        made = (each for each in vars(module).values() if isinstance(each, Tensor) and each.grad_fn is not None)
        shared |= {id(each): each.detach().clone() for each in made}
    return copy.deepcopy(model, dict(shared))


def _check(model: nn.Module) -> None:
    inner = "module" if isinstance(model, WRAPPERS) else COMPILED if COMPILED in model._modules else None
    if inner is not None:
        raise TaskError(
            f"the model is wrapped in {type(model).__name__}; give what is within, model.{inner}, and wrap the result"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise TaskError("the model is TorchScript, which cannot be changed; give the module that it was made of")
    if any(each.is_inference() for each in (*model.parameters(), *model.buffers())):
        raise TaskError("the model was made in torch.inference_mode and cannot be traced; make it outside, or copy it")


class Compressed(nn.Module):
    """Runs ``model`` with decoded weights; the model itself is never changed, renamed or re-classed.

    At rest, decoded tensors stand in the base module as ordinary parameters: running costs what the model costs, and
    ``torch.export``, ``torch.compile`` and ``generate`` see the user's class. Between :meth:`learn` and :meth:`settle`
    the forward pass swaps in tensors that depend on what learns (``torch.func.functional_call``).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base = twin(model)
        self.taps = nn.ModuleList()
        self._taps = Taps({})
        self._watcher: Watcher | None = None
        self.edits: tuple[Edit, ...] = ()
        self._trainable = {first: p.requires_grad for first, _, p in parameters(model)}
        self._names = {first: names for first, names, _ in parameters(model)}
        self._codes: dict[str, Code] = {}
        self._schemes: dict[str, Scheme] = {}
        self._learning: dict[str, Learn] = {}
        self._fields = nn.ParameterDict()
        self.training = model.training  # and the base keeps the mode of each of its modules

    @property
    def codes(self) -> Mapping[str, Code]:
        """Parameter name -> code, as it stands (while learning: with the learned numbers in it)."""
        return MappingProxyType({name: self._code(name) for name in self._codes})

    @property
    def names(self) -> Mapping[str, tuple[str, ...]]:
        """First name of every parameter -> all its names."""
        return MappingProxyType(self._names)

    @property
    def device(self) -> torch.device:
        return device_of(self.base)

    @property
    def learning(self) -> Mapping[str, Learn]:
        """The coded parameters that learn."""
        return MappingProxyType(self._learning)

    def parameter(self, name: str) -> nn.Parameter:
        """The base module's parameter of this name: decoded at rest, the latent weight while one learns."""
        return self.base.get_parameter(name)

    def weight(self, name: str) -> Tensor:
        """The tensor that the forward pass uses."""
        if name in self._learning:
            return self._weight(name)
        return self.parameter(name)

    def source(self, name: str) -> Tensor:
        """What the next projection of this parameter starts from."""
        learn = self._learning.get(name)
        if learn is None or learn is Learn.DIRECT:
            return self.weight(name).detach()
        if learn.dense:
            return self.parameter(name).detach()
        return self._schemes[name].carried(self.parameter(name).detach(), self._code(name))

    def encode(self, codes: Mapping[str, Code], schemes: Mapping[str, Scheme]) -> None:
        """Take these codes. A parameter that learns goes on learning, from its new code."""
        for name, code in codes.items():
            if name not in self._names:
                raise SelectionError(f"the model has no parameter {name!r} (tied weights go by their first name)")
            learn = self._learning.get(name)
            if learn is Learn.FREE:
                carried: Tensor | None = code.decode().detach()
            else:
                carried = None if learn in (None, Learn.DIRECT) else self.source(name).clone()
            self._codes[name], self._schemes[name] = code, schemes[name]
            if carried is not None:
                self.parameter(name).data.copy_(carried)
            if learn is None:
                self._place(name, code.decode().detach())
            else:
                self._open(name, learn)

    def renew(self, name: str, value: Tensor) -> None:
        """Give a parameter or a buffer another value of its shape; what is coded is projected anew by its scheme."""
        buffer = dict(self.base.named_buffers()).get(name)
        if buffer is not None and buffer.shape == value.shape and not self._learning:
            buffer.copy_(value)
            return
        if name not in self._names or self._learning:
            raise SelectionError(
                f"there is no parameter {name!r} to renew at rest (tied weights go by their first name)"
            )
        before = self.parameter(name)
        if value.shape != before.shape:
            raise SelectionError(f"{name!r} has the shape {tuple(before.shape)}, not {tuple(value.shape)}")
        value = value.detach().to(before.dtype)
        if name in self._codes:
            scheme = self._schemes[name]
            self.encode({name: scheme.project(value)}, {name: scheme})
        else:
            self._place(name, value.clone(), trainable=before.requires_grad)

    def learnable(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """What an optimizer takes while learning: numbers of codes and of taps, and all other parameters."""
        fields = {id(p) for p in (*self._fields.values(), *self.taps.parameters())}
        learning = [p for p in self.parameters() if p.requires_grad]
        return [p for p in learning if id(p) in fields], [p for p in learning if id(p) not in fields]

    def learn(
        self, sites: Mapping[str, Learn], rest: bool = True, latents: Mapping[str, Tensor] = MappingProxyType({})
    ) -> None:
        """Start learning at ``sites`` (coded parameters) and, with ``rest``, in every parameter without a code.

        Dense weights that learn start from ``latents``, what their codes were projected from, else from the decoded
        weight, as free ones always do. What learns is cloned first. A parameter that the user froze stays frozen.
        """
        for name, mode in sites.items():
            if name not in self._codes:
                raise SelectionError(f"{name!r} has no code yet; project it before it learns")
            self._learning[name] = mode
            if mode is not Learn.DIRECT:
                start = self.parameter(name) if mode is Learn.FREE else latents.get(name, self.parameter(name))
                self._place(name, start.detach().clone(), trainable=True)
            self._open(name, mode)
        if rest:
            for name in self._names.keys() - self._codes.keys():
                self._place(name, self.parameter(name).detach().clone(), trainable=self._trainable[name])

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Give the base module these tensors by the names of its state; what learns goes on learning from them."""
        buffers = dict(self.base.named_buffers())
        for name, tensor in state.items():
            if name in buffers:
                buffers[name].copy_(tensor)
            elif name in self._names:
                before = self.parameter(name)
                self._place(name, tensor.to(before.device), trainable=before.requires_grad)

    def settle(self) -> None:
        """Stop learning: round what was learned to its stored width and put decoded weights into the base module."""
        self._codes |= self._settled()
        self._learning.clear()
        self._fields.clear()
        self.settle_taps()
        for name in self._names:
            code = self._codes.get(name)
            self._place(name, self.parameter(name).detach() if code is None else code.decode().detach())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        try:
            if not self._learning:
                return self.base(*args, **kwargs)
            return functional_call(self.base, self._swapped(), args, kwargs)
        finally:
            if self._watcher is not None:
                self._watcher.reset()

    @contextmanager
    def decoded(self) -> Iterator[nn.Module]:
        """The base module with decoded weights in place, for entry points other than ``forward`` (``generate``).

        While learning, gradients flow to what learns; the weights are swapped back on leaving.
        """
        before = {name: self.parameter(name) for name in self._learning}
        try:
            for name, tensor in self._swapped().items():
                self._swap(name, tensor)
            yield self.base
        finally:
            for name, parameter in before.items():
                self._swap(name, parameter)

    @property
    def sites(self) -> Mapping[Place, Function]:
        """The activations that are sent through functions. Several may share one."""
        return MappingProxyType(self._taps.functions)

    def tap(self, sites: Iterable[TapSite]) -> None:
        """Send activations through functions, which may learn; a place that has one already gets the new one."""
        given = {site.place: site.function for site in sites}
        if not given:
            return  # hooks would cost time, and keep torch from its fast paths
        if self._watcher is None:
            self._watcher = Watcher(self._taps, ())
            self._watcher.install(self.base)
        self._send(self._taps.functions | given)

    def untap(self, places: Iterable[Place]) -> None:
        """Send the activations at these places through no function any more: what they did is in the weights now."""
        gone = set(places)
        if gone:
            self._send({place: function for place, function in self._taps.functions.items() if place not in gone})

    def settle_taps(self) -> None:
        """Put what stays of each function in its place, now that learning has ended."""
        kept = {each: each.settled() for each in dict.fromkeys(self._taps.functions.values())}
        if any(after is not before for before, after in kept.items()):
            after = {place: kept[function] for place, function in self._taps.functions.items()}
            self._send({place: function for place, function in after.items() if function is not None})

    def _send(self, functions: Mapping[Place, Function]) -> None:
        assert self._watcher is not None
        self._taps.functions = dict(functions)
        self.taps = nn.ModuleList(dict.fromkeys(functions.values()))
        self._watcher.watch(functions)

    def edit(self, edit: Edit) -> None:
        """Change the structure of the base module; a code follows where the edit knows how.

        Else the tensor is projected again by its scheme, where the edit says so, or loses its code.
        """
        moved = {edit.retap(self.base, place): function for place, function in self._taps.functions.items()}
        followed = {name: edit.recode(self.base, name, code) for name, code in self._codes.items()}
        self.base = edit.replaced(self.base)
        self.edits += (edit,)
        if self._watcher is not None:
            self._send(moved)
        found = list(parameters(self.base))
        self._names = {first: names for first, names, _ in found}
        self._trainable = {first: self._trainable.get(first, True) for first in self._names}
        again: dict[str, Scheme] = {}
        for name, code in followed.items():
            if code is None or name not in self._names:
                scheme = self._schemes.pop(name)
                del self._codes[name]
                if edit.again and name in self._names:
                    again[name] = scheme
            elif code is not self._codes[name]:
                self._codes[name] = code
                self._place(name, code.decode().detach())
        for name, scheme in again.items():
            self.encode({name: scheme.project(self.parameter(name).detach())}, {name: scheme})

    def finished(self) -> nn.Module:
        """A plain module of the user's class with decoded weights: nothing is shared, and it trains where it did."""
        model = copy.deepcopy(self.base)
        for first, _, parameter in parameters(model):
            parameter.requires_grad_(self._trainable[first])
        return model

    def _key(self, name: str, path: str) -> str:
        return f"{name}:{path}".replace(".", "/")

    def _open(self, name: str, mode: Learn) -> None:
        """Make Parameters of a code's direct fields, where they learn. Codes with one tensor share one Parameter."""
        prefix = self._key(name, "")
        for key in [key for key in self._fields if key.startswith(prefix)]:
            del self._fields[key]
        if mode.opens:
            for path, tensor in self._codes[name].tensors(Role.DIRECT).items():
                twins = self._twins(tensor)
                self._fields[self._key(name, path)] = twins[0] if twins else nn.Parameter(tensor.detach().clone())

    def _twins(self, tensor: Tensor) -> list[nn.Parameter]:
        """The Parameter of another code's field that is the very same tensor, where there is one."""
        same = ((n, path) for n, code in self._codes.items() for path, t in code.tensors().items() if t is tensor)
        keys = (self._key(name, path) for name, path in same)
        return [self._fields[key] for key in keys if key in self._fields][:1]

    def _code(self, name: str) -> Code:
        code = self._codes[name]
        keys = {path: self._key(name, path) for path in code.tensors(Role.DIRECT)}
        learned = {path: self._fields[key] for path, key in keys.items() if key in self._fields}
        return code.with_tensors(learned) if learned else code

    def _weight(self, name: str) -> Tensor:
        if self._learning[name] is Learn.DIRECT:
            return self._code(name).decode()
        if self._learning[name].dense:
            return self.parameter(name)
        return self._schemes[name].through(self.parameter(name), self._code(name))

    def _settled(self) -> dict[str, Code]:
        """The codes that learning ends with. Pulled and free weights are projected anew, a scheme at once."""
        shared: dict[int, Tensor] = {}
        codes = {name: self._one(self._ended(name), name, shared) for name in self._learning}
        again = [name for name, mode in self._learning.items() if mode.dense and not mode.opens]
        for scheme in dict.fromkeys(self._schemes[name] for name in again):
            weights = {name: self.parameter(name).detach() for name in again if self._schemes[name] == scheme}
            codes |= scheme.project_all(weights, dict.fromkeys(weights, EUCLIDEAN))
        return codes

    def _ended(self, name: str) -> Code:
        """The code with learned numbers as stored, and the symbols that the dense weight ends at, where one learns."""
        code = self._code(name).map(torch.detach).stored()
        mode = self._learning[name]
        if mode is Learn.DIRECT or (mode.dense and not mode.opens):
            return code
        return self._schemes[name].project(self.parameter(name).detach(), warm=code).stored()

    def _one(self, code: Code, name: str, shared: dict[int, Tensor]) -> Code:
        """The code with numbers that were one tensor while learning as one again: they go on together."""
        before, after = self._code(name).tensors(Role.DIRECT), code.tensors(Role.DIRECT)
        ones = {path: shared.setdefault(id(t), after[path]) for path, t in before.items() if path in after}
        return code.with_tensors({path: one for path, one in ones.items() if torch.equal(one, after[path])})

    def _swapped(self) -> dict[str, Tensor]:
        return {name: self._weight(name) for name in self._learning}

    def _place(self, name: str, tensor: Tensor, trainable: bool = False) -> None:
        assign(self.base, self._names[name], nn.Parameter(tensor, requires_grad=trainable))

    def _swap(self, name: str, tensor: Tensor) -> None:
        """Put any tensor where a Parameter stands, past ``nn.Module``'s check."""
        for each in self._names[name]:
            owner, _, leaf = each.rpartition(".")
            module = self.base.get_submodule(owner)
            module._parameters[leaf] = tensor  # type: ignore[assignment]
            if isinstance(module, nn.RNNBase):
                module._flat_weights[module._flat_weights_names.index(leaf)] = tensor

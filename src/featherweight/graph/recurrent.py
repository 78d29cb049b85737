"""Long short-term memory, step by step, so that what flows within it can be quantized: a structural edit."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from featherweight.activations.quantizers import Quantizer
from featherweight.core.edit import Edit
from featherweight.core.errors import FormatError, SchemeError

Signals = Mapping[str, Callable[[Tensor], Tensor]]
"""Name of a signal, ``hidden_l0``, -> what it is sent through."""

SIGNALS = ("input", "gates", "candidate", "cell", "hidden")
"""What can be named, each with ``_l`` and the number of the layer; see :class:`SteppedLSTM`."""


class SteppedLSTM(nn.LSTM):
    """PyTorch's LSTM of one direction, computed step by step, with its signals sent through functions.

    For every layer, ``i, f, o = G(σ(·))``, ``g = A(tanh(·))``, ``c_t = C(f c_{t−1} + i g)`` and
    ``h_t = H(o tanh(c_t))``, with the sums that PyTorch's documentation of ``torch.nn.LSTM`` gives, of ``X(x_t)`` and
    ``h_{t−1}``. ``G`` is the signal ``gates``, ``A`` ``candidate``, ``C`` ``cell``, ``H`` ``hidden`` and ``X``
    ``input``; those without a function stay as they are. First states are given, or zero, and are not sent through.
    """

    signals: Signals = MappingProxyType({})

    def forward(self, input: Any, hx: Any = None) -> Any:
        if isinstance(input, PackedSequence):
            raise SchemeError("an LSTM that runs step by step takes no packed sequences; give padded ones")
        batched = input.ndim == 3
        x = input if batched else input.unsqueeze(0 if self.batch_first else 1)
        x = x.transpose(0, 1) if self.batch_first else x
        if hx is None:
            hx = (x.new_zeros(self.num_layers, x.shape[1], self.hidden_size),) * 2
        elif not batched:
            hx = tuple(each.unsqueeze(1) for each in hx)
        ends = []
        for number, first in enumerate(zip(*hx, strict=True)):
            x, end = self._layer(number, x if number == 0 else self._dropped(x), *first)
            ends.append(end)
        last = tuple(torch.stack(each) for each in zip(*ends, strict=True))
        y = x.transpose(0, 1) if self.batch_first else x
        if not batched:
            y, last = y.squeeze(0 if self.batch_first else 1), tuple(each.squeeze(1) for each in last)
        return y, last

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def _layer(self, number: int, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The states [steps, batch, width] of one layer for its inputs, and the last hidden and cell state."""
        send = {kind: self.signals.get(f"{kind}_l{number}", _same) for kind in SIGNALS}
        inner, outer = getattr(self, f"weight_ih_l{number}"), getattr(self, f"weight_hh_l{number}")
        biases = [getattr(self, f"{name}_l{number}") if self.bias else None for name in ("bias_ih", "bias_hh")]
        given = F.linear(send["input"](x), inner, biases[0])
        states = []
        for sums in given.unbind(0):
            i, f, g, o = (sums + F.linear(h, outer, biases[1])).chunk(4, -1)
            i, f, o = send["gates"](torch.sigmoid(torch.stack((i, f, o)))).unbind(0)
            c = send["cell"](f * c + i * send["candidate"](torch.tanh(g)))
            h = send["hidden"](o * torch.tanh(c))
            states.append(h)
        return torch.stack(states), (h, c)


def _same(x: Tensor) -> Tensor:
    return x


def steppable(module: nn.Module | None) -> nn.LSTM | None:
    """The module, if it is PyTorch's LSTM, or a stepped one, of one direction and without projections."""
    plain = type(module) in (nn.LSTM, SteppedLSTM)
    return module if plain and not module.bidirectional and not module.proj_size else None  # type: ignore


def step(layer: nn.LSTM, signals: Signals) -> None:
    """Let a layer, which is nobody else's, run step by step; what its signals went through before is forgotten."""
    layer.__class__ = SteppedLSTM
    layer.signals = signals


@dataclass(frozen=True)
class Step(Edit):
    """LSTMs, by module path, that run step by step, and the quantizers of their signals.

    A quantizer is given by its settings: bits, lowest level, scale.
    """

    signals: Mapping[str, Mapping[str, tuple[int, int, float]]]
    identifier: ClassVar[str] = "step"

    def apply(self, model: nn.Module) -> None:
        modules = dict(model.named_modules())
        for path, given in self.signals.items():
            layer = steppable(modules.get(path))
            if layer is None:
                raise FormatError(f"the model has no LSTM of one direction at {path!r} that could run step by step")
            for name in given:
                if _parse(name) >= layer.num_layers:
                    raise FormatError(f"the LSTM {path!r} has {layer.num_layers} layers, and so no signal {name!r}")
            step(layer, {name: Quantizer.from_json(list(settings)) for name, settings in given.items()})

    def to_json(self) -> dict[str, object]:
        return {path: {name: list(each) for name, each in given.items()} for path, given in self.signals.items()}

    @classmethod
    def from_json(cls, record: dict[str, object]) -> "Step":
        signals = {}
        for path, given in record.items():
            if not isinstance(given, dict) or not all(isinstance(each, list) for each in given.values()):
                raise FormatError(f"the signals of {path!r} are not a table of quantizers")
            for name, settings in given.items():
                _parse(name)
                Quantizer.from_json(settings)
            signals[path] = {name: tuple(settings) for name, settings in given.items()}
        return cls(signals)


def _parse(name: str) -> int:
    """The number of the layer that a signal is in: ``hidden_l1`` -> 1."""
    found = re.fullmatch(rf"(?:{'|'.join(SIGNALS)})_l(0|[1-9]\d{{0,3}})", name)
    if found is None:
        raise FormatError(f"an LSTM has no signal {name!r}; it has {', '.join(SIGNALS)}, as in 'hidden_l0'")
    return int(found[1])

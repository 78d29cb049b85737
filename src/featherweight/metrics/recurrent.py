"""What the weights of recurrent layers are multiplied with, step by step."""

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from featherweight.core.errors import SchemeError


def recurrent(layer: nn.Module) -> bool:
    """Whether the layer is one of PyTorch's over whole sequences: ``nn.RNN``, ``nn.LSTM``, ``nn.GRU``."""
    return isinstance(layer, nn.RNNBase)


def met_by(layer: nn.RNNBase, name: str, args: tuple[Any, ...]) -> Tensor:
    """The rows ``x`` that ``weight_ih_lK`` or ``weight_hh_lK``, of either direction, meets in one call: [n, columns].

    ``weight_ih`` meets the inputs ``x_t`` of its layer, which for layer ``K > 0`` are the states of layer ``K − 1`` in
    all directions; ``weight_hh`` the states ``h_{t−1}``, ``h_{t+1}`` of the reverse direction, from the initial one on
    (PyTorch's documentation of ``torch.nn.LSTM`` and ``torch.nn.GRU``, equations at the top). Every step of every
    sequence is a row. Raises ``SchemeError`` for packed sequences.
    """
    inputs, states = args[0], args[1] if len(args) > 1 else None
    if isinstance(inputs, PackedSequence):
        raise SchemeError("the steps of packed sequences are not known here; calibrate with padded ones")
    kind, number, reverse = _parse(name)
    x = inputs if inputs.ndim == 3 else inputs.unsqueeze(0 if layer.batch_first else 1)
    x = x.transpose(0, 1) if layer.batch_first else x
    first = _first_states(layer, states, x)
    for below in range(number):
        x = _layer(layer, below, x, first)
    if kind == "ih":
        rows: Tensor = x.flatten(0, 1)
        return rows
    width = layer.proj_size or layer.hidden_size
    y = _layer(layer, number, x, first)[..., reverse * width : (reverse + 1) * width]
    directions = 2 if layer.bidirectional else 1
    initial = first[0][number * directions + reverse][None]
    before = torch.cat((y[1:], initial)) if reverse else torch.cat((initial, y[:-1]))
    return before.flatten(0, 1)


def _parse(name: str) -> tuple[str, int, int]:
    """``weight_hh_l1_reverse`` -> ``("hh", 1, 1)``."""
    found = re.fullmatch(r"weight_(ih|hh)_l(\d+)(_reverse)?", name)
    if found is None:
        raise SchemeError(f"what {name} of a recurrent layer meets is not known; leave it out")
    return found[1], int(found[2]), int(found[3] is not None)


def _first_states(layer: nn.RNNBase, given: Any, x: Tensor) -> tuple[Tensor, ...]:
    """``h`` and, of an LSTM, ``c`` before the first step: [layers · directions, batch, width]."""
    cells = isinstance(layer, nn.LSTM)
    if given is not None:
        states = given if cells else (given,)
        return tuple(each if each.ndim == 3 else each.unsqueeze(1) for each in states)
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    widths = (layer.proj_size or layer.hidden_size, layer.hidden_size)
    return tuple(x.new_zeros(count, x.shape[1], width) for width in widths[: 1 + cells])


def _layer(layer: nn.RNNBase, number: int, x: Tensor, first: tuple[Tensor, ...]) -> Tensor:
    """The states of one layer over all steps, [steps, batch, directions · width], for its inputs ``x``."""
    directions = 2 if layer.bidirectional else 1
    settings: dict[str, Any] = {"bias": layer.bias, "bidirectional": layer.bidirectional, "device": "meta"}
    if isinstance(layer, nn.LSTM):
        settings["proj_size"] = layer.proj_size
    elif isinstance(layer, nn.RNN):
        settings["nonlinearity"] = layer.nonlinearity
    kind: Any = type(layer)
    single = kind(x.shape[-1], layer.hidden_size, **settings)
    names = [name.replace("_l0", f"_l{number}") for name, _ in single.named_parameters()]
    weights = {one: getattr(layer, name) for (one, _), name in zip(single.named_parameters(), names, strict=True)}
    states = tuple(each[number * directions : (number + 1) * directions].contiguous() for each in first)
    given = states if isinstance(layer, nn.LSTM) else states[0]
    y: Tensor = torch.func.functional_call(single, weights, (x.contiguous(), given))[0]
    return y

"""Codes as the integers that hardware multiplies with."""

import torch
from torch import Tensor

from featherweight.core.code import Code
from featherweight.schemes.sparse import SparseCode
from featherweight.schemes.uniform import PerChannel, PerGroup, PerTensor, UniformCode


def integers(code: Code) -> tuple[Tensor, Tensor, int, int] | None:
    """(levels int8, scales, axis, group) of a symmetric uniform code, dense or sparse; ``None`` for what is none."""
    if isinstance(code, SparseCode) and isinstance(code.values, UniformCode):
        inner = code.values
        if inner.zeros is not None or not isinstance(inner.granularity, PerTensor) or len(code.shape) < 2:
            return None
        levels = inner.levels.new_zeros(code.shape).masked_scatter(code.support, inner.levels)
        return levels.to(torch.int8), inner.scales.decode().expand(code.shape[0]).contiguous(), 0, 0
    if not isinstance(code, UniformCode) or code.zeros is not None or len(code.shape) < 2:
        return None
    levels, scales = code.levels.to(torch.int8), code.scales.decode()
    match code.granularity:
        case PerTensor():
            return levels, scales.expand(code.shape[0]).contiguous(), 0, 0
        case PerChannel(axis):
            return levels, scales, axis, 0
        case PerGroup(size) if len(code.shape) == 2:
            return levels, scales.reshape(code.shape[0], -1), 1, size
        case _:
            return None

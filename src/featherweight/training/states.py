"""Optimizers that keep their moments in eight bits from step to step."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from featherweight.core.errors import SchemeError
from featherweight.core.stage import adam
from featherweight.schemes.floats import Floats, Width
from featherweight.schemes.tables import Table, TableCode, Tabled
from featherweight.schemes.uniform import PerGroup
from featherweight.training.optimizers import Make, parameters_of


@dataclass(frozen=True)
class QuantizedState:
    """``optimizer`` whose moments are codes of eight bits between its steps, with a scale for every ``block`` entries.

    It stands where a :class:`featherweight.core.stage.Training` has an optimizer. Before a step the moments are
    decoded, one float32 copy of all; after it, those of ``smallest`` entries or more are coded again, row by row of
    ``block`` entries of the flat tensor, by a table that is fine for small and large numbers alike (Dettmers, Lewis,
    Shleifer and Zettlemoyer 2021, arXiv 2110.02861: blocks of 2,048, and moments of fewer than 4,096 entries left as
    they are). What is never negative, as Adam's second moment, is kept as its root, which is what Adam divides by:
    rounded to zero itself, it would make steps without bound; theirs has a table without signs for it.

    ``state_dict`` is in float32, as the optimizer's own, so that a run goes on from it to the same bits.
    """

    optimizer: Make = adam
    table: Table = Table.DYNAMIC_TREE
    block: int = 2048
    smallest: int = 4096

    def __post_init__(self) -> None:
        if self.block < 1 or self.smallest < 1:
            raise SchemeError(f"blocks of {self.block} from {self.smallest} entries on; give 1 or more of both")

    def __call__(self, parameters: Iterable[Any], lr: float) -> torch.optim.Optimizer:
        made = self.optimizer(parameters, lr)
        made.register_step_pre_hook(lambda optimizer, args, kwargs: _decode(optimizer))
        made.register_step_post_hook(lambda optimizer, args, kwargs: self._encode(optimizer))
        made.register_state_dict_pre_hook(_decode)
        made.register_state_dict_post_hook(lambda optimizer, record: self._encode(optimizer))
        return made

    @torch.no_grad()
    def _encode(self, optimizer: torch.optim.Optimizer) -> None:
        for parameter in parameters_of(optimizer):
            if parameter in optimizer.state:  # another table each time: a state's record may share the one before
                state = optimizer.state[parameter]
                optimizer.state[parameter] = {
                    key: self._kept(x) if self._is_moment(x, parameter) else x for key, x in state.items()
                }

    def _is_moment(self, x: Any, parameter: Tensor) -> bool:
        return isinstance(x, Tensor) and x.shape == parameter.shape and x.numel() >= self.smallest

    def _kept(self, x: Tensor) -> "Kept":
        root = bool((x >= 0).all())
        flat = (x.sqrt() if root else x).flatten()
        code = Tabled(self.table, PerGroup(self.block)).project(F.pad(flat, (0, -len(flat) % self.block)))
        assert isinstance(code.scales, Floats)
        scales = code.scales.values.to(code.scales.width.dtype)
        return Kept(code.indices.to(torch.uint8), scales, self.table, tuple(x.shape), x.dtype, root)


@dataclass(frozen=True, eq=False)
class Kept:
    """A moment in eight bits: ``indices`` uint8, flat and padded to whole blocks, and ``scales`` one a block."""

    indices: Tensor
    scales: Tensor
    table: Table
    shape: tuple[int, ...]
    dtype: torch.dtype
    root: bool

    @property
    def nbytes(self) -> int:
        return self.indices.nbytes + self.scales.nbytes

    def decode(self) -> Tensor:
        """The moment, of its shape and type."""
        whole, blocks = len(self.indices), len(self.scales)
        scales = Floats.holding(self.scales.to(self.dtype), Width.of(self.scales.dtype))
        code = TableCode((whole,), self.dtype, self.indices.short(), scales, self.table, PerGroup(whole // blocks))
        x = code.decode()[: torch.Size(self.shape).numel()].reshape(self.shape)
        return x.square() if self.root else x


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """The bytes of all that an optimizer keeps of its parameters, as it stands."""
    kept = (x for state in optimizer.state.values() for x in state.values())
    return sum(x.nbytes for x in kept if isinstance(x, Tensor | Kept))


@torch.no_grad()
def _decode(optimizer: torch.optim.Optimizer) -> None:
    for parameter in parameters_of(optimizer):
        if parameter in optimizer.state:
            state = optimizer.state[parameter]
            state.update({key: x.decode() for key, x in state.items() if isinstance(x, Kept)})

"""Structured sparsity: entries that live and die together, from single blocks to whole filters."""

from dataclasses import dataclass, field

from torch import Tensor

from featherweight.core.errors import SchemeError
from featherweight.core.scheme import Promise
from featherweight.schemes.sparse import Sparse
from featherweight.schemes.structures import Box, Norm, Structure
from featherweight.schemes.supports import BoxSupport, SparseCode, Support, never_empty


@dataclass(frozen=True)
class GroupSparse(Sparse):
    """Keep the boxes of largest importance of a structure, zero the others, and store one bit a box.

    ``argmin ‖w − v‖²_M`` over all ``v`` with the given number of boxes that are not all zero. In a Euclidean or
    diagonal metric ``d`` the minimum keeps the boxes of largest ``Σ d w²``, which is the structure's norm ``L2``: exact
    where the survivors are kept exactly. Other norms are rules. The amount counts boxes: its shares are shares of them,
    its thresholds are of their norms, its rows are rows of the grid. A box whose values are rounded to zero leaves the
    support whole; within one that stays, zeros are values. One box always stays.
    """

    structure: Structure = field(kw_only=True)

    @property
    def promise(self) -> Promise:  # type: ignore[override]
        return super().promise if self.structure.norm is Norm.L2 else Promise.RULE

    def ahead(self, importance: Tensor) -> Tensor:
        box = self._box(importance)
        chosen = self.amount.support(box.reduced(importance, self.structure.norm))
        return box.spread(chosen, tuple(importance.shape))

    def columns(self, most: int) -> int:
        box = self.structure.box((0, 0))
        width = box.sizes[1]
        if not box.matrix or not 1 <= width <= most:
            raise SchemeError(
                f"a sweep goes by columns, not by {self.structure}; take Blocks of {most} columns at most"
            )
        boxes = self.amount.run or most // width
        if boxes * width > most:
            raise SchemeError(f"{self} decides on {boxes * width} columns at once, and the sweep on {most} at most")
        return boxes * width

    def _box(self, importance: Tensor) -> Box:
        return self.structure.box(tuple(importance.shape))

    def _scores(self, importance: Tensor) -> Tensor:
        return self._box(importance).reduced(importance.double(), self.structure.norm)

    def _formed(self, chosen: Tensor, importance: Tensor) -> Support:
        box, boxes = self._box(importance), never_empty(chosen, self._scores(importance))
        return BoxSupport(box.spread(boxes, tuple(importance.shape)), box)

    def _support(self, importance: Tensor) -> Support:
        return self._formed(self.amount.support(self._scores(importance)), importance)

    def _again(self, importance: Tensor, before: SparseCode) -> Support:
        box = self._box(importance)
        return self._formed(self.amount.again(self._scores(importance), box.any(before.support)), importance)

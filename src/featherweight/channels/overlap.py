"""Filters that say what others of their layer say: which to drop for a while, and what to come back as."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featherweight.core.compressed import Compressed
from featherweight.core.metric import Metric, Scores
from featherweight.core.stage import MetricRule, Repair, Repaired
from featherweight.core.task import Task
from featherweight.schemes.floats import Float
from featherweight.schemes.supports import SparseCode


def overlap(w: Tensor) -> Tensor:
    """``O = row sums of |Ŵ Ŵᵀ − I| / J`` of the ``J`` rows of a weight, each scaled to length one: [J], in float64.

    0 for a filter that is orthogonal to all others, near 1 for one that all others are parallel to (Prakash, Storer,
    Florencio and Zhang 2019, arXiv 1811.07275, section 5).
    """
    rows = w.detach().double().flatten(1)
    unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
    found: Tensor = (unit @ unit.T).fill_diagonal_(0.0).abs().sum(1) / len(rows)
    return found


@dataclass(frozen=True)
class FilterOverlap(MetricRule):
    """``1 − O`` for every entry of a filter, of :func:`overlap`: with ``GroupSparse`` the largest overlap goes first.

    Filters of different layers compare, by a norm that does not grow with their size (``Norm.RMS``).
    """

    def measure(self, student: Compressed, names: Sequence[str], task: Task) -> dict[str, Metric]:
        found: dict[str, Metric] = {}
        for name in names:
            w = student.weight(name).detach()
            each = (1 - overlap(w)).reshape(-1, *(1 for _ in w.shape[1:]))
            found[name] = Scores(each.expand(w.shape))
        return found


@dataclass(frozen=True)
class Reintroduce(Repair):
    """Filters that the stage dropped come back as new ones, orthogonal to what they were and to all that stayed.

    Prakash et al. 2019, section 4: a direction of the null space of the layer's survivors, as they are now, and of the
    dropped, as the stage found them; orthogonal to each other too. Directions are drawn with ``seed``, and lengths are
    the mean of the survivors', which is ours. Where the filters leave fewer dimensions than are needed, new ones are
    orthogonal to each other alone, as far as that goes. The layer is then stored in full.
    """

    seed: int = 0

    @torch.no_grad()
    def repair(self, student: Compressed, before: Compressed, task: Task) -> Repaired:
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        changed = {}
        for name, code in student.codes.items():
            if not isinstance(code, SparseCode):
                continue
            w = code.decode().detach()
            dropped = ~code.support.flatten(1).any(1)
            if bool(dropped.any()):
                whole = returned(w.flatten(1), before.weight(name).detach().flatten(1), dropped, generator)
                after = whole.reshape(w.shape).to(w.dtype)
                student.encode({name: Float().project(after)}, {name: Float()})
                changed[name] = float((after - w).norm() / after.norm().clamp(min=1e-30))
        return Repaired(changed)


def returned(w: Tensor, former: Tensor, dropped: Tensor, generator: torch.Generator) -> Tensor:
    """The rows of ``w`` [J, n], those ``dropped`` replaced by new ones, in float64."""
    taken = torch.where(dropped[:, None], former, w).double()
    fresh = torch.randn(int(dropped.sum()), w.shape[1], generator=generator, dtype=torch.float64).to(w.device)
    if len(taken) + len(fresh) <= w.shape[1]:
        basis = torch.linalg.qr(taken.T).Q
        fresh -= fresh @ basis @ basis.T
    unit = torch.linalg.qr(fresh.T).Q.T if len(fresh) <= w.shape[1] else fresh / fresh.norm(dim=1, keepdim=True)
    length = w.double()[~dropped].norm(dim=1).mean()
    after = w.double().clone()
    after[dropped] = unit * length
    return after

"""Optimal brain surgeon for channels: which inputs of layers matter least, when what is left makes up for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featherweight.core.errors import SchemeError
from featherweight.core.metric import DAMPING, Full


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads channels: its weight, the full metric of its inputs, and where each channel stands in it.

    ``columns`` [channels, k] are indices into the columns of the weight, flattened to [rows, columns]: the k entries of
    a channel's kernel, or the k places at which a flattened map has the channel.
    """

    w: Tensor
    metric: Full
    columns: Tensor

    def __post_init__(self) -> None:
        if self.metric.hessian.ndim != 2:
            raise SchemeError("channels that a layer reads in groups cannot be weighed by its inputs' moment")


@dataclass(frozen=True)
class Elimination:
    """Channels in the order in which they go, and the error once the first ``k`` have gone: ``errors[k]``, from 0 on.

    The last entry is the error without any channel, of everything that these layers compute from them.
    """

    order: tuple[int, ...]
    errors: tuple[float, ...]


def damped(hessian: Tensor, damping: float = DAMPING) -> Tensor:
    """``H + damping · mean(diag H) · I``, of [n, n] in float64; unit input where there was none at all."""
    mean = hessian.diagonal().mean()
    mean = mean if bool(mean > 0) else torch.ones_like(mean)
    return hessian.double() + damping * mean * torch.eye(len(hessian), dtype=torch.float64, device=hessian.device)


@torch.no_grad()
def eliminate(readers: Sequence[Reader], damping: float = DAMPING) -> Elimination:
    """Remove channels one after another, each time the one whose loss the other channels make up for best.

    The removal of a channel with columns ``J`` from a weight ``w`` in ``Σ_r g_r (w_r − v_r) H (w_r − v_r)ᵀ``, under
    ``v_J = 0``, costs ``Σ_r g_r w_rJ ([H⁻¹]_JJ)⁻¹ w_rJᵀ``, and changes ``w`` by ``−w_J ([H⁻¹]_JJ)⁻¹ [H⁻¹]_J:``: the
    optimal brain surgeon (Hassibi and Stork 1993) for groups of weights (Frantar and Alistarh 2022, arXiv 2208.11580,
    section 5; Kurtić, Frantar and Alistarh 2023, arXiv 2302.04089, section 3). Costs of layers that read the same
    channels add up. Greedy: for each number of channels that stay, a good set, not always the best.
    """
    states = [_State(reader, damping) for reader in readers]
    count = len(readers[0].columns)
    alive = torch.ones(count, dtype=torch.bool, device=readers[0].w.device)
    order: list[int] = []
    errors = [0.0]
    for _ in range(count):
        costs = torch.stack([state.costs(alive) for state in states]).sum(0)
        gone = int(costs.masked_fill(~alive, torch.inf).argmin())
        errors.append(errors[-1] + max(float(costs[gone]), 0.0))
        order.append(gone)
        for state in states:
            state.remove(gone)
        alive[gone] = False
    return Elimination(tuple(order), tuple(errors))


class _State:
    """One layer's weight and inverse moment, as channels go."""

    def __init__(self, reader: Reader, damping: float) -> None:
        self.columns = reader.columns.to(reader.w.device)
        self.w = reader.w.detach().double().flatten(1).clone()
        rows = reader.metric.rows
        self.g = torch.ones(len(self.w), dtype=torch.float64) if rows is None else rows.double()
        self.g = self.g.to(self.w.device)
        self.inverse = torch.linalg.inv(damped(reader.metric.hessian, damping))

    def costs(self, alive: Tensor) -> Tensor:
        """What every channel's removal costs; those that are gone cost nothing that means anything."""
        at = self.columns
        blocks = self.inverse[at[:, :, None], at[:, None, :]]
        blocks[~alive] = torch.eye(at.shape[1], dtype=blocks.dtype, device=blocks.device)
        w = self.w[:, at].permute(1, 2, 0)  # [channels, k, rows]
        cost: Tensor = ((w * torch.linalg.solve(blocks, w)).sum(1) * self.g).sum(1)
        return cost

    def remove(self, channel: int) -> None:
        at = self.columns[channel]
        rows = torch.linalg.solve(self.inverse[at[:, None], at], self.inverse[at])
        self.w -= self.w[:, at] @ rows
        self.w[:, at] = 0
        self.inverse -= self.inverse[:, at] @ rows
        self.inverse[at] = 0
        self.inverse[:, at] = 0


@torch.no_grad()
def made_up(w: Tensor, hessian: Tensor, kept: Tensor, damping: float = DAMPING) -> Tensor:
    """``argmin_v tr((w − v) H (w − v)ᵀ)`` over ``v`` of zeros outside the columns ``kept``: those columns of it.

    ``v_S = w H_:S H_SS⁻¹``, with ``w`` flattened to [rows, columns]: what stays makes up for what goes by least squares
    (He, Zhang and Sun 2017, arXiv 1707.06168, equation 5; Luo, Wu and Lin 2017, arXiv 1707.06342, section 3.3).
    """
    h = damped(hessian, damping)
    target = w.detach().double().flatten(1) @ h[:, kept]
    solved: Tensor = torch.linalg.solve(h[kept][:, kept], target.T).T
    return solved.to(w.dtype)

"""Learned rounding: each weight up or down, so that the layer's output changes least and not the weight."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from featherweight.core.code import Code
from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Full, Metric
from featherweight.core.scheme import Scheme
from featherweight.core.stage import Projector
from featherweight.metrics.responses import Responses
from featherweight.schemes.uniform import UniformCode, blocks, unblocked

ZETA, GAMMA = 1.1, -0.1
"""How far a sigmoid is stretched before it is cut to 0 .. 1 (Louizos, Welling and Kingma 2018, arXiv 1712.01312)."""


def rectified_sigmoid(v: Tensor) -> Tensor:
    """``h(v) = min(max(σ(v)(ζ − γ) + γ, 0), 1)``, ``ζ = 1.1`` and ``γ = −0.1``: reaches 0 and 1 at finite ``v``.

    Nagel et al. 2020, arXiv 2004.10568, equation 23.
    """
    return (v.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def inverse_rectified_sigmoid(h: Tensor) -> Tensor:
    """The ``v`` at which ``h(v)`` is ``h``; of 0 and 1 the one nearest to zero."""
    return torch.logit((h.clamp(0, 1) - GAMMA) / (ZETA - GAMMA))


class Rounding:
    """``w(V) = l + h(V) (u − l)`` between the levels ``l`` below and ``u`` above every entry of a weight, cut to range.

    ``start`` is a uniform code of the weight: its scales and zero points stay. ``V`` starts where ``w(V)`` is ``w``
    (cut to range). Entries outside the range have one level and no choice. ``SchemeError`` for other codes.
    """

    def __init__(self, start: Code, w: Tensor) -> None:
        if not isinstance(start, UniformCode):
            raise SchemeError(f"rounding is learned between the levels of Uniform, and not of a {type(start).__name__}")
        grid, scales = start.grid, start.scales.decode()
        zeros = scales.new_zeros(len(scales)) if start.zeros is None else start.zeros.to(scales.dtype)
        x = blocks(w.detach(), start.granularity).to(scales.dtype) / scales[:, None] + zeros[:, None]
        below = ((x - grid.low) / grid.step).floor() * grid.step + grid.low
        lower, upper = (each.clamp(grid.low, grid.high) for each in (below, below + grid.step))
        share = ((x - lower) / (upper - lower).clamp(min=grid.step)).clamp(0, 1)
        self.start = start
        self.levels = (self._shaped(lower), self._shaped(upper))
        self.base = self._shaped((lower - zeros[:, None]) * scales[:, None])
        self.span = self._shaped((upper - lower) * scales[:, None])
        self.free = self.span != 0
        self.variables = nn.Parameter(self._shaped(inverse_rectified_sigmoid(share)))

    def _shaped(self, matrix: Tensor) -> Tensor:
        return unblocked(matrix, self.start.shape, self.start.granularity).contiguous()

    def soft(self) -> Tensor:
        """``w(V)``, differentiable in ``V``."""
        return (self.base + rectified_sigmoid(self.variables) * self.span).to(self.start.dtype)

    def penalty(self, beta: float) -> Tensor:
        """``Σ 1 − |2 h(V) − 1|^β`` over entries that have a choice (equation 24)."""
        h = rectified_sigmoid(self.variables)
        return ((1 - (2 * h - 1).abs().pow(beta)) * self.free).sum()

    @torch.no_grad()
    def undecided(self) -> int:
        """How many entries are neither at the level below nor at the one above."""
        h = rectified_sigmoid(self.variables)
        return int(((h > 0) & (h < 1) & self.free).sum())

    @torch.no_grad()
    def hard(self) -> UniformCode:
        """The code with every entry at the nearer of its two levels, by ``h(V)``."""
        lower, upper = self.levels
        chosen = torch.where(rectified_sigmoid(self.variables) >= 0.5, upper, lower)
        return replace(self.start, levels=chosen.to(torch.int16))

    @torch.no_grad()
    def flip(self, w: Tensor, metric: Full) -> None:
        """Put every entry to the nearer of its levels, and then, in every row, the one whose move to its other level
        lowers ``d H dᵀ`` most to that, until no single move does. Moving by δ changes it by ``2 δ (d H)_j + δ² H_jj``.
        """
        up = (rectified_sigmoid(self.variables) >= 0.5).double()
        wanted, hessian = metric.grouped(w)
        base, span, up = (each.double().reshape(wanted.shape) for each in (self.base, self.span, up))
        pull = (base + up * span - wanted) @ hessian
        diagonal = hessian.diagonal(dim1=-2, dim2=-1)[:, None]
        for _ in range(up.shape[-1]):
            move = span * (1 - 2 * up)
            change, best = (2 * move * pull + move.square() * diagonal).min(-1, keepdim=True)
            better = change < -1e-9 * (pull.square() / diagonal.clamp(min=1e-30)).amax(-1, keepdim=True)
            if not bool(better.any()):
                break
            moved = torch.zeros_like(up).scatter(-1, best, move.gather(-1, best)) * better
            up = (up + moved.sign()).clamp(0, 1)
            pull = pull + moved @ hessian
        ends = inverse_rectified_sigmoid(up.reshape(self.variables.shape))
        self.variables.copy_(ends)


@dataclass(frozen=True)
class Annealing:
    """What pushes rounding variables to 0 and 1: ``λ Σ 1 − |2h − 1|^β``, nothing for the first ``warm`` of the steps.

    After them β falls from ``first`` to ``last`` by half a cosine: while it is high, only variables near an end are
    pushed, and the others stay free to follow the error (Nagel et al. 2020, arXiv 2004.10568, section 3.4).
    """

    weight: float = 0.01
    first: float = 20.0
    last: float = 2.0
    warm: float = 0.2

    def __post_init__(self) -> None:
        if self.weight <= 0 or not 0 < self.last <= self.first or not 0 <= self.warm < 1:
            raise SchemeError(f"{self}: give a weight above 0, exponents that fall, and a warm start of 0 up to 1")

    def beta(self, done: float) -> float | None:
        """The exponent after ``done`` of all steps, 0 to 1; ``None`` while nothing is pushed."""
        if done < self.warm:
            return None
        share = (done - self.warm) / (1 - self.warm)
        return self.last + (self.first - self.last) * 0.5 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True)
class AdaRound(Projector):
    """``min_V E(w(V)) / u + λ Σ 1 − |2h(V) − 1|^β`` over roundings up or down: :class:`Rounding`, :class:`Annealing`.

    Nagel, Amjad, van Baalen, Louizos and Blankevoort (2020, arXiv 2004.10568, section 3). Scales come from the scheme's
    own projection, which is a uniform one: else ``SchemeError``. In the full metric ``E`` is its distance, so that no
    data are looked at again. In :class:`featherweight.metrics.responses.Responses` it is the error of the layer's
    outputs against the original's, through a rectifier where one follows (asymmetric reconstruction, section 3.5), by
    ``batch`` rows of inputs a step. ``u`` is the mean square of an output, by which λ means the same in every layer.

    Adam takes ``steps`` at rate ``lr``. Then every entry is put to its nearer level: a few may be left in between,
    where the error pulls harder than λ pushes. In the full metric, single entries are then moved to their other level,
    the best one of each row first, until none lowers the error. Where the result is worse than rounding to nearest, by
    ``E`` itself, that is returned.
    """

    steps: int = 2000
    lr: float = 0.01
    annealing: Annealing = Annealing()
    batch: int = 1024
    seed: int = 0
    required: bool = True
    """Else other metrics than the full one are projected in by the scheme itself."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.lr <= 0 or self.batch < 1:
            raise SchemeError(f"{self}: give one step or more, a rate above 0, and one row a step or more")

    def project(self, scheme: Scheme, w: Tensor, metric: Metric) -> Code:
        if not isinstance(metric, Full) and not self.required:
            return scheme.project(w, metric)
        if not isinstance(metric, Full):
            raise SchemeError("learned rounding needs the full metric; measure it with InputMoment or LayerResponses")
        start = scheme.project(w, metric if scheme.scaled_by_metric else EUCLIDEAN)
        rounding = Rounding(start, w)
        error = metric.error if isinstance(metric, Responses) else lambda v: metric.distance(w, v)
        if not float(error(start.decode())) > 0:
            return start
        self.learn(rounding, self._loss(w, metric))
        if not isinstance(metric, Responses):
            rounding.flip(w, metric)
        code = rounding.hard()
        return code if bool(error(code.decode()) <= error(start.decode())) else start

    def learn(self, rounding: Rounding, loss: Callable[[Tensor], Tensor]) -> None:
        """Descend in ``V``; ``loss`` is of a weight, in the unit that λ is for."""
        optimizer = torch.optim.Adam([rounding.variables], self.lr)
        with torch.enable_grad():
            for step in range(self.steps):
                total = loss(rounding.soft())
                beta = self.annealing.beta(step / self.steps)
                if beta is not None:
                    total = total + self.annealing.weight * rounding.penalty(beta)
                optimizer.zero_grad(set_to_none=True)
                total.backward()  # type: ignore[no-untyped-call]
                optimizer.step()

    def _loss(self, w: Tensor, metric: Full) -> Callable[[Tensor], Tensor]:
        if isinstance(metric, Responses):
            return _sampled(metric, self.batch, self.seed)
        return _quadratic(w, metric)


def _quadratic(w: Tensor, metric: Full) -> Callable[[Tensor], Tensor]:
    """``Σ g d H dᵀ / u`` up to a constant: the gradient, ``2 g d H / u``, takes one product."""
    unit = float(metric.distance(w, torch.zeros_like(w))) / len(w)
    matrix, hessian = metric.grouped(w)
    hessian = (hessian / max(unit, torch.finfo(torch.float64).tiny)).to(w.dtype)
    g = None if metric.rows is None else metric.rows.reshape(len(hessian), -1, 1).to(w.dtype)
    wanted = matrix.to(w.dtype)

    def loss(v: Tensor) -> Tensor:
        difference = v.reshape(wanted.shape) - wanted
        pull = difference.detach() @ hessian
        return 2 * (difference * (pull if g is None else pull * g)).sum()

    return loss


def _sampled(metric: Responses, batch: int, seed: int) -> Callable[[Tensor], Tensor]:
    """``‖f(Y + b) − f(X Vᵀ + b)‖² / (n u)`` over ``n`` rows, drawn anew each time."""
    wanted = metric.answered(metric.outputs)
    unit = float(wanted.double().square().sum(1).mean()) / wanted.shape[1]
    generator = torch.Generator(device="cpu").manual_seed(seed)

    def loss(v: Tensor) -> Tensor:
        rows = torch.randint(len(wanted), (batch,), generator=generator, device="cpu").to(wanted.device)
        answers = metric.answered(metric.inputs[rows] @ v.flatten(1).T)
        return (answers - wanted[rows]).square().sum(1).mean() / max(unit, torch.finfo(torch.float32).tiny)

    return loss

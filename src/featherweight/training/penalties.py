"""Penalties on the weights that an objective adds to the loss."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError
from featherweight.core.site import WEIGHTS, Sites, select
from featherweight.core.stage import Learn, Tap, Term
from featherweight.schemes.mixture import CHUNK, MixtureCode
from featherweight.schemes.structures import Norm, Structure


@dataclass(frozen=True)
class Pull(Term):
    """``½ Σ ‖w − decode(c)‖²`` over the *pulled* weights; ``weight`` is μ, or with ``rising`` what the target makes it.

    The quadratic penalty of learning-compression algorithms (Carreira-Perpiñán 2017, arXiv 1707.01209, section 3): the
    loop's steps are the L step, the schedule's projections the C step. ``rising`` multiplies μ by the schedule's target
    (:class:`featherweight.core.stage.Homotopy`): the homotopy from the loss alone to the constraint.
    """

    rising: bool = False

    def __call__(self, tap: Tap) -> Tensor:
        student = tap.student
        assert isinstance(student, Compressed)
        pulled = [name for name, mode in student.learning.items() if mode is Learn.PULLED]
        codes = student.codes
        errors = [(student.parameter(name) - codes[name].decode().detach()).square().sum() for name in pulled]
        share = tap.target if self.rising else 1.0
        return torch.stack(errors).sum() * share / 2 if errors else tap.outputs.new_zeros(())


@dataclass(frozen=True, kw_only=True)
class GroupLasso(Term):
    """``Σ_l Σ_g ‖w_g‖₂`` over the groups ``g`` of a structure of the weights ``l`` at ``sites``; ``weight`` is λ.

    The l2,1 norm, which draws whole groups to zero: structured sparsity learning takes it over filters, channels and
    filter shapes (Wen et al. 2016, arXiv 1608.03665, equation 2), group-wise brain damage over columns (Lebedev and
    Lempitsky 2016, CVPR, section 3). With ``smallest`` below 1 only that share of each weight's groups, those of the
    least norms, is drawn: the others learn unharmed. The gradient of a group that is zero is zero. Put the groups that
    it has drawn near to zero onto zero by a threshold of :class:`featherweight.schemes.grouped.GroupSparse`.

    It is of the dense parameters: a weight whose code's own numbers learn (``Learn.DIRECT``) has none that move.
    """

    structure: Structure
    sites: Sites = WEIGHTS
    smallest: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.smallest <= 1:
            raise SchemeError(f"a share of {self.smallest} of the groups is not in (0, 1]; 1 draws all of them")

    def __call__(self, tap: Tap) -> Tensor:
        student = tap.student
        assert isinstance(student, Compressed)
        found = select(student.base, self.sites)
        return torch.stack([self._norms(w).sum() for w in found.values()]).sum() if found else tap.outputs.new_zeros(())

    def _norms(self, w: Tensor) -> Tensor:
        norms = self.structure.box(tuple(w.shape)).reduced(w.abs(), Norm.L2).flatten()
        drawn = round(self.smallest * len(norms))
        return norms if self.smallest == 1 else norms.sort().values[:drawn]


@dataclass(frozen=True)
class Gamma:
    """A Gamma prior on a precision ``λ = 1/σ²``: ``−log p(λ) = (1 − shape) log λ + rate · λ``, but for a constant."""

    shape: float
    rate: float

    def __post_init__(self) -> None:
        if self.shape <= 0 or self.rate <= 0:
            raise SchemeError(f"a Gamma prior of shape {self.shape} and rate {self.rate}: both are above 0")

    def __call__(self, log_deviations: Tensor) -> Tensor:
        """The sum over components."""
        log_precisions = -2 * log_deviations
        return ((1 - self.shape) * log_precisions + self.rate * log_precisions.exp()).sum()


@dataclass(frozen=True)
class MixturePrior(Term):
    """``−Σ_i log Σ_j π_j N(w_i; μ_j, σ_j²) − Σ_j log Gamma(1/σ_j²)`` over weights that learn with a mixture's code.

    Soft weight-sharing (Nowlan and Hinton 1992; Ullrich, Meeds and Welling 2017, arXiv 1702.04008, section 3): weights
    and mixture learn together (``Learn.MUTUAL``, :class:`featherweight.schemes.mixture.Mixture`). ``weight`` is
    ``τ / N`` where the task's loss is a mean over samples, of which there are ``N``. ``at_zero`` is the hyper-prior of
    the component at zero, ``others`` that of each other one; constants are left out. ``rising`` multiplies the whole by
    the schedule's target, as in :class:`Pull`: τ rises to what ``weight`` says.
    """

    at_zero: Gamma | None = None
    others: Gamma | None = None
    rising: bool = False

    def __call__(self, tap: Tap) -> Tensor:
        student = tap.student
        assert isinstance(student, Compressed)
        groups: dict[int, tuple[MixtureCode, list[Tensor]]] = {}
        for name, code in student.codes.items():
            if isinstance(code, MixtureCode) and student.learning.get(name) is Learn.MUTUAL:
                numbers = id(code.means.decode())
                groups.setdefault(numbers, (code, []))[1].append(student.parameter(name).flatten())
        losses = [self._loss(torch.cat(weights), code) for code, weights in groups.values()]
        share = tap.target if self.rising else 1.0
        return torch.stack(losses).sum() * share if losses else tap.outputs.new_zeros(())

    def _loss(self, w: Tensor, code: MixtureCode) -> Tensor:
        log_deviations = code.log_deviations.decode()
        loss = negative_log_density(w, code.centres(), log_deviations, code.log_mixing())
        if self.at_zero is not None:
            loss = loss + self.at_zero(log_deviations[:1])
        return loss if self.others is None else loss + self.others(log_deviations[1:])


def negative_log_density(w: Tensor, means: Tensor, log_deviations: Tensor, log_mixing: Tensor) -> Tensor:
    """``−Σ_i log Σ_j π_j N(w_i; μ_j, σ_j²)``, less ``n/2 log 2π``: ``w`` [n], the others [components].

    Gradients are computed in the forward pass, chunk by chunk, so that nothing of size [n, components] is kept.
    """
    loss: Tensor = _NegativeLogDensity.apply(w, means, log_deviations, log_mixing)  # type: ignore[no-untyped-call]
    return loss


class _NegativeLogDensity(torch.autograd.Function):
    """The exponent of a component is a quadratic in ``w``, so that all of them are one product of small matrices.

    With responsibilities ``r_ij``: ``∂/∂w_i = Σ_j r_ij (w_i − μ_j)/σ_j²``, and the components' gradients follow from
    ``Σ_i r_ij``, ``Σ_i r_ij w_i`` and ``Σ_i r_ij w_i²``.
    """

    @staticmethod
    def forward(ctx: Any, w: Tensor, means: Tensor, log_deviations: Tensor, log_mixing: Tensor) -> Tensor:
        precisions = (-2 * log_deviations).exp()
        constant = log_mixing - log_deviations - precisions * means.square() / 2
        quadratic = torch.stack([-precisions / 2, precisions * means, constant], 1)
        loss = w.new_zeros((), dtype=torch.float64)
        moments = torch.zeros_like(quadratic)
        slopes = []
        for part in w.split(CHUNK):  # type: ignore[no-untyped-call]
            powers = torch.stack([part.square(), part, torch.ones_like(part)])
            exponents = quadratic @ powers
            highest = exponents.amax(0)
            shares = exponents.sub_(highest).exp_()
            total = shares.sum(0)
            loss -= (total.log() + highest).double().sum()
            shares.div_(total)
            slope = quadratic[:, :2].T @ shares
            slopes.append(-(2 * part * slope[0] + slope[1]))
            moments += shares @ powers.T
        second, first, mass = moments.unbind(1)
        of_means = -precisions * (first - means * mass)
        of_deviations = mass - precisions * (second - 2 * means * first + means.square() * mass)
        ctx.save_for_backward(torch.cat(slopes), of_means, of_deviations, -mass)
        return loss.to(w.dtype)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, ...]:
        return tuple(above[0] * each for each in ctx.saved_tensors)

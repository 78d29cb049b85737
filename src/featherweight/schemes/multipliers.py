"""Weights that must equal their code in the end: the quadratic penalty, and the augmented Lagrangian.

``min_{w, c} L(w)  s.t.  w = decode(c)`` is solved along a path of rising ``μ``. A stage whose weights are *pulled*
alternates the L step (training under :class:`featherweight.training.penalties.Pull`) and the C step (a projection at
every target of its :class:`featherweight.core.stage.Homotopy`). The two schemes here leave what they wrap at its whole
effect at every target: what rises is the penalty.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isclose, log
from typing import Self

from torch import Tensor

from featherweight.core.code import Code, number_type
from featherweight.core.errors import SchemeError
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme
from featherweight.schemes.floats import Float, Floats, Width
from featherweight.schemes.plus import Plus, PlusCode


@dataclass(frozen=True)
class QuadraticPenalty(Scheme):
    """``min_{w, c} L(w) + μ_k/2 ‖w − decode(c)‖²``, ``k = 0, 1, …``, with rising ``μ_k``: ``inner`` as it is.

    The C step is ``inner``'s projection of ``w``; the target ``t = μ_k / μ_last`` is the penalty's own business
    (``Pull(μ_last, rising=True)``). With ``priced`` the inner scheme weighs a cost ``α C(c)`` against the distance, by
    ``α/μ``: its ``at(1/t)`` is taken, so that what it states is its price at the last ``μ``.

    Carreira-Perpiñán (2017), arXiv 1707.01209, section 3.
    """

    inner: Scheme
    priced: bool = False

    @property
    def promise(self) -> Promise:  # type: ignore[override]
        return self.inner.promise

    def at(self, target: float) -> Self:
        return replace(self, inner=self.inner.at(1 / target)) if self.priced else self

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> Code:
        return self.inner.project(w, metric, warm=warm, rate=rate)

    def project_all(
        self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric], warm: Mapping[str, Code] | None = None
    ) -> dict[str, Code]:
        return self.inner.project_all(weights, metrics, warm)

    def advance(
        self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric], before: Mapping[str, Code]
    ) -> dict[str, Code]:
        return self.inner.advance(weights, metrics, before)

    def through(self, w: Tensor, code: Code) -> Tensor:
        return self.inner.through(w, code)

    def carried(self, w: Tensor, code: Code) -> Tensor:
        return self.inner.carried(w, code)


@dataclass(frozen=True)
class AugmentedLagrangian(QuadraticPenalty):
    """The same with multipliers ``λ``: ``min_w L(w) + μ_k/2 ‖w − decode(c) − λ/μ_k‖²`` is the L step.

    Between two L steps, from ``μ`` to ``μ' = growth · μ``, with ``u = −λ/μ`` (0 at first)::

        z  = Π(w − λ/μ)  = Π(w + u)                     the C step
        λ' = λ − μ (w − z),  so  u' = (u + w − z) · μ/μ'

    and the next L step is pulled to ``z + λ'/μ' = z − u'``: the code in force is the sum of ``z``'s and of ``−u'``.
    At rising ``μ`` these are the learning-compression algorithms (Carreira-Perpiñán 2017, arXiv 1707.01209, section 3);
    at ``growth`` 1 (``μ`` fixed, ``Iterative(rounds, fixed=True)`` or ``Homotopy(rounds, 1)``) they are the alternating
    direction method of multipliers in its scaled form, ``x ← argmin L + ρ/2 ‖x − z + u‖²``, ``z ← Π(x + u)``,
    ``u ← u + x − z`` (Boyd, Parikh, Chu, Peleato and Eckstein 2011, section 3.1.1).

    ``growth`` must be the schedule's: ``SchemeError`` at a target that is no power of it. Learning ends with
    ``inner``'s own code of the weights. Multipliers reach no file; a checkpoint holds them as the second part of a sum.
    """

    growth: float = 1.0

    def __post_init__(self) -> None:
        if self.growth < 1:
            raise SchemeError(f"a penalty that grows by {self.growth} a round falls; give 1 or more")
        if isinstance(self.inner, Plus) and self.inner.second == Float():
            raise SchemeError("a sum whose second part is exact is every tensor; nothing is left to constrain")

    def at(self, target: float) -> Self:
        rounds = round(log(target) / log(self.growth)) if self.growth > 1 else 0
        if not isclose(target, self.growth**rounds, rel_tol=1e-6):
            raise SchemeError(
                f"the schedule's target {target:g} is no power of {self.growth:g}, by which the multipliers are "
                f"rescaled; take Homotopy(rounds, {self.growth:g})"
            )
        return super().at(target)

    def advance(
        self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric], before: Mapping[str, Code]
    ) -> dict[str, Code]:
        split = {name: _split(code) for name, code in before.items()}
        shifted = {name: w if (u := split[name][1]) is None else w + u.to(w.dtype) for name, w in weights.items()}
        codes = self.inner.advance(shifted, metrics, {name: code for name, (code, _) in split.items()})
        return {name: self._pulling(code, weights[name], split[name][1]) for name, code in codes.items()}

    def _pulling(self, code: Code, w: Tensor, u: Tensor | None) -> PlusCode:
        """The code ``z − u'`` for the next L step, with ``u' = (u + w − z) / growth``."""
        wide = number_type(code.dtype)
        left = w.detach().to(wide) - code.decode().detach().to(wide)
        further = (left if u is None else u + left) / self.growth
        return PlusCode(code.shape, code.dtype, code, Floats(code.shape, wide, -further, Width.of(wide)))


def _split(code: Code) -> tuple[Code, Tensor | None]:
    """The code of the last C step, and its scaled multipliers ``u``; none before the second C step."""
    match code:
        case PlusCode(first=first, second=Floats(values=values, width=Width.FLOAT32 | Width.FLOAT64)):
            return first, -values
        case _:
            return code, None


def multipliers(code: Code) -> Tensor | None:
    """The scaled multipliers ``u = −λ/μ`` of a code that pulls; ``None`` where there are none yet."""
    return _split(code)[1]


def compressed(code: Code) -> Code:
    """The code of the C step itself, without its multipliers: what the weights are to become."""
    return _split(code)[0]

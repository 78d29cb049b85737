"""Quantization in portions: what is quantized stays as it is, and the rest learns to make up for it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Self

import torch
from torch import Tensor

from featherweight.core.code import Code
from featherweight.core.errors import SchemeError, naming
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight, straight_through
from featherweight.schemes.floats import Float
from featherweight.schemes.split import SplitCode, largest


class Choice(Enum):
    """Which entries of a tensor are quantized first."""

    LARGEST = "largest"  # the largest √d |w| of those that are left, "pruning-inspired"
    RANDOM = "random"  # in an order that is drawn once, with the seed


@dataclass(frozen=True)
class Incremental(Scheme):
    """A ``share`` of the entries is quantized by ``inner`` and frozen; the others are floats that learn.

    Incremental network quantization (Zhou, Yao, Guo, Xu and Chen 2017, arXiv 1702.03044, sections 2.2 and 2.3): with
    ``T`` the mask of what is not quantized yet, weights learn by ``W ← W − γ (∂E/∂W) ∘ T``; then the mask gives up the
    next entries. A schedule steers the share (:class:`featherweight.core.stage.Portions`): at its later targets what is
    frozen stays, to the last bit, and more joins it. At the whole share the code is a plain code of ``inner``.

    ``inner`` is fitted once, to the whole tensor, and its numbers (a scale, centroids, exponents) are kept: it must be
    a scheme whose numbers are the tensor's and not a channel's. The backward rule of latent learning is the mask ``T``.
    In direct learning, the floats outside are Parameters; so are the numbers of ``inner``, if it has any that learn:
    take levels without such, as powers of two are, or learn latently, as the paper's update does for any levels.
    """

    inner: Scheme
    choice: Choice = Choice.LARGEST
    share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise SchemeError(f"a share of {self.share} is not in (0, 1]; 0.5 quantizes every other entry")

    @property
    def promise(self) -> Promise:  # type: ignore[override]
        """At the whole share ``inner``'s; a rule before, since the mask is chosen before the code is known."""
        return self.inner.promise if self.share == 1 else Promise.RULE

    def at(self, target: float) -> Self:
        return replace(self, share=target * self.share)

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> Code:
        check_weight(w)
        if warm is None:
            whole = self.inner.project(w, metric, rate=rate if self.share == 1 else None)
            return self._frozen(w, metric, torch.zeros_like(w, dtype=torch.bool), whole)
        if not isinstance(warm, SplitCode):
            return warm
        return replace(warm, outside=Float().project(w[~warm.mask]))

    def advance(
        self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric], before: Mapping[str, Code]
    ) -> dict[str, Code]:
        codes = {}
        for name, w in weights.items():
            with naming(name):
                code = before[name]
                codes[name] = self._joined(w, metrics[name], code) if isinstance(code, SplitCode) else code.stored()
        return codes

    def through(self, w: Tensor, code: Code) -> Tensor:
        """Forward: the code inside the mask and ``w`` outside. Backward: ``∂L/∂w`` outside, and zero inside."""
        decoded = code.decode().detach()
        if isinstance(code, SplitCode):
            return torch.where(code.mask, decoded, w)
        return straight_through(decoded, w * 0)

    def carried(self, w: Tensor, code: Code) -> Tensor:
        return self.through(w, code).detach()

    def _joined(self, w: Tensor, metric: Metric, code: SplitCode) -> Code:
        """What is frozen in ``code``, and more of the rest."""
        return self._frozen(self.through(w, code).detach(), metric, code.mask, code.inside)

    def _frozen(self, w: Tensor, metric: Metric, held: Tensor, numbers: Code) -> Code:
        """The share of the entries, ``held`` ones first, by ``inner`` with the numbers that ``numbers`` has."""
        mask = held | largest(self._order(w, metric).masked_fill(held, torch.inf), self.share)
        if not bool(mask.any()):
            mask = largest(metric.importance(w), 1 / w.numel())
        try:
            if bool(mask.all()):
                return self.inner.project(w, metric, warm=numbers) if bool(held.any()) else numbers
            inside = self.inner.project(w[mask], metric.select(mask), warm=numbers)
        except (RuntimeError, IndexError) as error:
            raise SchemeError(
                f"{self.inner} has numbers or a mask of its own for parts of a tensor; "
                "give Incremental a scheme with one scale or codebook for the tensor"
            ) from error
        return SplitCode(tuple(w.shape), w.dtype, mask, inside, Float().project(w[~mask]))

    def _order(self, w: Tensor, metric: Metric) -> Tensor:
        """The larger, the sooner an entry is quantized."""
        if self.choice is Choice.LARGEST:
            return metric.importance(w)
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        drawn = torch.randperm(w.numel(), generator=generator, device="cpu")
        return drawn.to(w.device, torch.float64).reshape(w.shape)

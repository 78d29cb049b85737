"""Penalties that make channels alike, so that one of them can go."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError
from featherweight.core.stage import Tap, Term


@dataclass(frozen=True)
class CorrelatePairs(Term):
    """``exp(−mean |ρ|)`` over the most correlated pairs of filters of every weight that a pattern matches.

    ``ρ`` is Pearson's correlation of two filters as vectors; ``share`` of a layer's filters have a pair, that with the
    largest ``|ρ|`` as the weights stand (Singh et al. 2020, arXiv 1811.10559, section 3.3).
    """

    share: float = 0.2
    patterns: tuple[str, ...] = ("*",)

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise SchemeError(f"pairs for a share of {self.share} of the filters; give one above 0, and at most 1")

    def __call__(self, tap: Tap) -> Tensor:
        student = tap.student
        assert isinstance(student, Compressed)
        strengths = [
            nearest(student.weight(name), self.share)
            for name in student.names
            if student.parameter(name).ndim > 1 and any(fnmatchcase(name, pattern) for pattern in self.patterns)
        ]
        if not strengths:
            raise SchemeError(f"no weight of the model matches {self.patterns}; give patterns of its filters")
        return torch.exp(-torch.cat(strengths).mean())


def nearest(w: Tensor, share: float) -> Tensor:
    """``|ρ|`` of the ``share`` of rows that are most correlated with another, each with that one."""
    rows = w.flatten(1)
    centred = rows - rows.mean(1, keepdim=True)
    unit = centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-12)
    rho = (unit @ unit.T).abs()
    rho = rho - 2 * torch.eye(len(rho), dtype=rho.dtype, device=rho.device)  # none with itself
    strongest: Tensor = rho.amax(1).topk(max(round(share * len(rho)), 1)).values
    return strongest

"""One codebook for many tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from featherweight.core.code import Code
from featherweight.core.errors import SchemeError, naming
from featherweight.core.metric import EUCLIDEAN, Diagonal, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight
from featherweight.schemes.codebook import CodebookCode, dropped

PASSES = 100
"""Of choosing the symbols again with the numbers that all share; one or a few are usual."""


@dataclass(frozen=True)
class Joint(Scheme):
    """All tensors of a stage that have this scheme share one codebook: ``scheme`` projects them as one tensor.

    ``min Σ_t Σ_i d_ti (w_ti − c_{a(t,i)})²`` over one set of centroids (and λ bits, where ``scheme`` is entropy
    constrained). Layers are weighed against each other by the metric's diagonal, as they are by the loss's curvature
    in Choi, El-Khamy and Lee (2016), arXiv 1612.01543, section 3: in the Euclidean metric small weights lose.

    The codes hold the very same centroids: they learn as one Parameter, and a file holds them once. Symbols are then
    chosen again, tensor by tensor, until none changes, since a file has a table of counts for each. For the survivors
    of pruning, ``Sparse(...).then(Joint(Codebook(...)))``: a support by tensor or over all, and one codebook. A tensor
    by itself is projected by ``scheme``.
    """

    scheme: Scheme

    @property
    def promise(self) -> Promise:  # type: ignore[override]
        return self.scheme.promise

    def at(self, target: float) -> Self:
        return self if target == 1 else replace(self, scheme=self.scheme.at(target))

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> Code:
        return self.scheme.project(w, metric, warm=warm, rate=rate)

    def project_all(
        self, weights: Mapping[str, Tensor], metrics: Mapping[str, Metric], warm: Mapping[str, Code] | None = None
    ) -> dict[str, Code]:
        if warm is not None or not weights:
            return super().project_all(weights, metrics, warm)
        for name, w in weights.items():
            with naming(name):
                check_weight(w)
        together = self.scheme.project(_joined(weights), _joined_metric(weights, metrics))
        codes = _split(together, weights)
        for name, w in weights.items():
            codes[name] = self._settled(w, metrics[name], codes[name])
        return dict(_compact(codes))

    def through(self, w: Tensor, code: Code) -> Tensor:
        return self.scheme.through(w, code)

    def carried(self, w: Tensor, code: Code) -> Tensor:
        return self.scheme.carried(w, code)

    def _settled(self, w: Tensor, metric: Metric, code: CodebookCode) -> CodebookCode:
        for _ in range(PASSES):
            renewed = self.scheme.project(w, metric, warm=code)
            assert isinstance(renewed, CodebookCode)
            if torch.equal(renewed.indices, code.indices):
                break
            code = renewed
        return code


def _joined(weights: Mapping[str, Tensor]) -> Tensor:
    types = {w.dtype for w in weights.values()}
    if len(types) > 1:
        names = ", ".join(sorted(str(each) for each in types))
        raise SchemeError(f"tensors of the types {names} cannot share their numbers; give each type a stage of its own")
    return torch.cat([w.detach().flatten() for w in weights.values()])


def _joined_metric(weights: Mapping[str, Tensor], metrics: Mapping[str, Metric]) -> Metric:
    found = {name: metrics[name].weights(w) for name, w in weights.items()}
    if all(each is None for each in found.values()):
        return EUCLIDEAN
    each = [torch.ones_like(w) if (d := found[name]) is None else d for name, w in weights.items()]
    return Diagonal(torch.cat([d.flatten() for d in each]))


def _split(code: Code, weights: Mapping[str, Tensor]) -> dict[str, CodebookCode]:
    if not isinstance(code, CodebookCode):
        raise SchemeError(
            f"{type(code).__name__} has no numbers that tensors could share; Joint takes a codebook, and stands inside "
            "of others: Sparse(...).then(Joint(Codebook(...)))"
        )
    if code.size > max(w.numel() for w in weights.values()):
        raise SchemeError(f"a codebook of {code.size} values is larger than each tensor that shares it; take fewer")
    pieces = code.indices.split([w.numel() for w in weights.values()])  # type: ignore[no-untyped-call]
    pairs = zip(weights.items(), pieces, strict=True)
    return {name: CodebookCode(tuple(w.shape), w.dtype, i.reshape(w.shape), code.centroids) for (name, w), i in pairs}


def _compact(codes: Mapping[str, CodebookCode]) -> dict[str, CodebookCode]:
    """Without centroids that no tensor uses any more."""
    indices = torch.cat([code.indices.flatten() for code in codes.values()])
    centroids, among = dropped(next(iter(codes.values())).centroids, indices)
    pieces = among.to(torch.int32).split([code.indices.numel() for code in codes.values()])  # type: ignore[no-untyped-call]
    pairs = zip(codes.items(), pieces, strict=True)
    return {name: replace(code, indices=i.reshape(code.shape), centroids=centroids) for (name, code), i in pairs}

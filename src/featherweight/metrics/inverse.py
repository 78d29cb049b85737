"""The inverse of the whole Hessian, over all weights of a small network together."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_map

from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, TaskError
from featherweight.core.metric import Metric
from featherweight.core.stage import MetricRule
from featherweight.core.task import Task, evaluating, moved, tensors_of
from featherweight.metrics.diagonal import arguments

AT_ONCE = 32
"""Samples whose gradients are held together."""


@dataclass(frozen=True, eq=False)
class JointInverse(Metric):
    """One tensor's part of a Hessian ``H`` [n, n] that couples the weights of several tensors, and of ``H⁻¹``.

    ``H`` is over the entries of all tensors that were not zero when it was measured, tensor after tensor, row-major.
    ``alive`` are those of this tensor, the first of which is number ``first``. Distances are those with all other
    tensors as they are; entries that were zero cost nothing.
    """

    hessian: Tensor
    inverse: Tensor
    alive: Tensor
    first: int

    def distance(self, w: Tensor, v: Tensor) -> Tensor:
        difference = (w.double() - v.double())[self.alive]
        at = slice(self.first, self.first + len(difference))
        return difference @ self.hessian[at, at] @ difference

    def weights(self, w: Tensor) -> Tensor | None:
        diagonal = torch.zeros(self.alive.shape, dtype=self.hessian.dtype, device=self.hessian.device)
        count = int(self.alive.sum())
        return diagonal.masked_scatter(self.alive, self.hessian.diagonal()[self.first : self.first + count])


@dataclass(frozen=True)
class InverseHessian(MetricRule):
    """``H = α I + (1/P) Σ X Xᵀ`` over all weights together, and its inverse, found one sample after the other.

    Hassibi and Stork 1993 (NIPS 5), section 3: ``X = ∂f/∂w`` are the outputs' derivatives at each of ``P`` samples (an
    ``X`` for each output), which gives the Hessian of the squared error at a minimum. With ``H₀⁻¹ = I / α``

        H_{m+1}⁻¹ = H_m⁻¹ − H_m⁻¹ X Xᵀ H_m⁻¹ / (P + Xᵀ H_m⁻¹ X)

    by :func:`inverted`, over the first ``samples`` of the calibration data. ``α`` is ``damping`` times the mean of the
    diagonal of the sum, so that it means the same for weights of any scale. Entries that are zero are taken as deleted
    already, and left out. More than ``largest`` others raise ``SchemeError``: the inverse has the square of their
    number of entries.
    """

    samples: int = 512
    damping: float = 1e-4
    largest: int = 12_000

    @torch.no_grad()
    def measure(self, student: Compressed, names: Sequence[str], task: Task) -> dict[str, Metric]:
        weights = {name: student.weight(name).detach() for name in names}
        alive = {name: w != 0 for name, w in weights.items()}
        counts = {name: int(mask.sum()) for name, mask in alive.items()}
        n = sum(counts.values())
        if not 0 < n <= self.largest:
            raise SchemeError(
                f"an inverse Hessian over {n} weights is not for 1 to {self.largest}; select fewer, or prune before"
            )
        hessian = torch.zeros(n, n, dtype=torch.float64, device=student.device)
        samples, kept = 0, []
        for size, derivatives in _derivatives(student, weights, alive, task, self.samples):
            samples += size
            kept.append(derivatives.float())
            wide = derivatives.double()
            hessian.addmm_(wide.T, wide)
        if samples == 0:
            raise TaskError(f"the calibration data of task {task.name!r} holds no batch")
        if not bool(torch.isfinite(hessian).all()):
            raise TaskError(f"derivatives at the calibration data of task {task.name!r} are not finite; clean the data")
        hessian /= samples
        alpha = self.damping * (float(hessian.diagonal().mean()) or 1.0)
        hessian.diagonal().add_(alpha)
        inverse = inverted((each.double() for each in kept), samples, alpha, n)
        starts = dict(zip(counts, torch.tensor([0, *counts.values()]).cumsum(0).tolist(), strict=False))
        return {name: JointInverse(hessian, inverse, alive[name], starts[name]) for name in names}


def inverted(derivatives: Iterable[Tensor], samples: int, alpha: float, n: int) -> Tensor:
    """``(α I + (1/P) Σ X Xᵀ)⁻¹`` for ``P`` = ``samples``; ``derivatives`` [any, n] hold an ``X`` in each row.

    The rows of one tensor are taken in one step, which gives what the published recursion gives after all of them
    (Woodbury 1950): ``H⁻¹ − H⁻¹ Xᵀ (P I + X H⁻¹ Xᵀ)⁻¹ X H⁻¹``.
    """
    inverse: Tensor | None = None
    for x in derivatives:
        if inverse is None:
            inverse = torch.eye(n, dtype=torch.float64, device=x.device) / alpha
        seen = x @ inverse
        gain = samples * torch.eye(len(x), dtype=x.dtype, device=x.device) + seen @ x.T
        inverse -= seen.T @ torch.cholesky_solve(seen, torch.linalg.cholesky(gain))
    if inverse is None:
        raise TaskError("there is no sample to invert a Hessian from")
    return (inverse + inverse.T) / 2


def _derivatives(
    student: Compressed, weights: Mapping[str, Tensor], alive: Mapping[str, Tensor], task: Task, most: int
) -> Iterator[tuple[int, Tensor]]:
    """(new samples, ∂f_k/∂w [samples, n]) for every output ``k`` of every few samples, ``most`` in all."""

    def output(leaves: dict[str, Tensor], inputs: Any, number: int) -> Tensor:
        args, kwargs = tree_map(lambda x: x[None], inputs)
        (found,) = tensors_of(functional_call(student.base, leaves, args, kwargs))
        return found.flatten()[number]

    with evaluating(student):
        for batch in task.calibration_data():
            args, kwargs = arguments(moved(batch, student.device))
            found = tensors_of(student(*args, **kwargs))
            if len(found) != 1 or found[0].ndim < 1:
                raise TaskError("an inverse Hessian needs a model with one tensor of outputs, a row for each sample")
            outputs, total = found[0][0].numel(), min(len(found[0]), most)
            for start in range(0, total, AT_ONCE):
                at = slice(start, min(start + AT_ONCE, total))
                part = tree_map(lambda x, at=at: x[at], (args, kwargs))
                for number in range(outputs):
                    gradients = vmap(grad(output), in_dims=(None, 0, None))(dict(weights), part, number)
                    rows = torch.cat([gradients[name][:, alive[name]] for name in weights], 1)
                    yield (len(rows) if number == 0 else 0), rows
            most -= total
            if most == 0:
                return

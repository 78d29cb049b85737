"""Product codes that keep a layer's output: block coordinate descent over sub-spaces."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from featherweight.core.code import Code
from featherweight.core.errors import SchemeError
from featherweight.core.metric import Metric
from featherweight.core.scheme import Scheme
from featherweight.core.stage import Projector
from featherweight.metrics.responses import Responses
from featherweight.schemes.floats import Floats, Width
from featherweight.schemes.product import Product, ProductCode, subvectors
from featherweight.schemes.vectors import nearest_vectors


@dataclass(frozen=True)
class ResponseDescent(Projector):
    """``min ‖Y − X Vᵀ‖² / n + λ ‖W − V‖²`` over product codes ``V`` of ``scheme``, cut along the inputs.

    Wu, Leng, Wang, Hu and Cheng (2016, arXiv 1512.06473, sections 3.2 and 3.3). ``X`` and ``Y`` are the metric's
    :class:`featherweight.metrics.responses.Responses`; another metric raises ``SchemeError``. ``λ`` is ``damping``
    times the mean of the diagonal of ``H = Xᵀ X / n``. By completing the square it is ``tr (T − V) (H + λ I) (T − V)ᵀ``
    with ``T = (Yᵀ X / n + λ W) (H + λ I)⁻¹``, so that samples are looked at once.

    From the scheme's own projection, ``rounds`` times over the sub-spaces in turn, all others fixed: every sub-vector
    takes the codebook entry that leaves the least of its sub-space's residual, one kernel position after the other;
    then the codebook is the least-squares solution for these assignments. Each step is an exact minimum, so the sum
    never rises; where rounding to stored numbers raised it over the start, the start is returned.
    """

    rounds: int = 5
    damping: float = 1e-3

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.damping <= 0:
            raise SchemeError(f"{self.rounds} rounds, damping {self.damping}: give 1 round or more, damping above 0")

    def project(self, scheme: Scheme, w: Tensor, metric: Metric) -> Code:
        if not isinstance(scheme, Product) or scheme.dimension != 1 or scheme.shared:
            raise SchemeError("a descent over sub-spaces takes Product along dimension 1, with a codebook for each")
        if not isinstance(metric, Responses):
            raise SchemeError("a descent over sub-spaces needs responses; measure them with LayerResponses")
        start = scheme.project(w)
        flat = w.detach().flatten(1).double()
        h, target = completed(flat, metric, self.damping)
        descent = _Descent(start, w, target, h)
        before = descent.error()
        for _ in range(self.rounds):
            for subspace in range(descent.subspaces):
                descent.assign(subspace)
                descent.refit(subspace)
        descent.store(start)
        for subspace in range(descent.subspaces):
            descent.assign(subspace)
        return descent.code(w) if descent.error() <= before else start


def completed(w: Tensor, metric: Responses, damping: float) -> tuple[Tensor, Tensor]:
    """``H + λ I`` and the dense ``T`` [rows, columns] at which ``‖Y − X Tᵀ‖² / n + λ ‖W − T‖²`` is least."""
    h = metric.hessian.double().clone()
    ridge = damping * (float(h.diagonal().mean()) or 1.0)  # inputs that are all zero tell nothing: W stays
    h.diagonal().add_(ridge)
    moment = metric.outputs.double().T @ metric.inputs.double() / len(metric.inputs)
    return h, torch.linalg.solve(h, (moment + ridge * w).T).T


class _Descent:
    """The state: assignments [rows, sub-spaces, positions], codebooks, and what is left of the target.

    Columns are ordered by sub-space, kernel position and component. Those that fill up the last sub-space have a target
    of zero and no moment with others.
    """

    def __init__(self, start: ProductCode, w: Tensor, target: Tensor, h: Tensor) -> None:
        rows, self.length = len(w), start.length
        columns = torch.arange(target.shape[1], device=w.device).reshape(1, *w.shape[1:])
        order = subvectors((columns + 1).double(), 1, self.length).long()  # [positions, sub-spaces, length]
        self.positions, self.subspaces = order.shape[:2]
        order = order.transpose(0, 1).flatten()  # 0 where there is no column
        padded = F.pad(h, (1, 0, 1, 0))
        self.h = padded[order][:, order]
        self.h.diagonal().add_((order == 0).double())
        self.target = F.pad(target, (1, 0))[:, order].reshape(rows, self.subspaces, self.positions, self.length)
        self.books = start.codebooks.decode().double().clone()
        self.owners = start.indices.flatten(2).long() if start.indices.ndim > 2 else start.indices[:, :, None].long()
        self.left = self.target - self.decoded()

    def decoded(self) -> Tensor:
        return torch.stack([book[owner] for book, owner in zip(self.books, self.owners.unbind(1), strict=True)], 1)

    def error(self) -> float:
        left = self.left.flatten(1)
        return float(((left @ self.h) * left).sum())

    def assign(self, subspace: int) -> None:
        """``argmin_k (t − d_k) H_pp (t − d_k)ᵀ`` of every row's vector, at one position after the other.

        ``t`` is where the sum would be least if the vector were free.
        """
        book = self.books[subspace]
        for position in range(self.positions):
            start = (subspace * self.positions + position) * self.length
            at = slice(start, start + self.length)
            factor = torch.linalg.cholesky(self.h[at, at])
            now = book[self.owners[:, subspace, position]]
            pull = self.left.flatten(1) @ self.h[:, at]
            best = now + torch.cholesky_solve(pull.T, factor).T
            self.owners[:, subspace, position] = nearest_vectors(best @ factor, None, book @ factor)
            self.left[:, subspace, position] += now - book[self.owners[:, subspace, position]]

    def refit(self, subspace: int) -> None:
        """The codebook of least squares for the assignments: one linear system over all entries of the codebook.

        An entry that nobody owns stays.
        """
        book, width = self.books[subspace], self.positions * self.length
        at = slice(subspace * width, (subspace + 1) * width)
        own = F.one_hot(self.owners[:, subspace], len(book)).double()  # [rows, positions, size]
        blocks = self.h[at, at].reshape(self.positions, self.length, self.positions, self.length)
        together = torch.einsum("rpk,rqm->pkqm", own, own)
        normal = torch.einsum("pkqm,piqj->kimj", together, blocks).reshape(book.numel(), book.numel())
        pull = (self.left.flatten(1) @ self.h[:, at]).reshape(-1, self.positions, self.length)
        gradient = torch.einsum("rpk,rpi->ki", own, pull).flatten()
        normal.diagonal().add_((normal.diagonal() == 0).double() + 1e-12 * normal.diagonal().mean())
        step = torch.linalg.solve(normal, gradient).reshape(book.shape)
        self.books[subspace] = book + step
        self.left[:, subspace] -= step[self.owners[:, subspace]]

    def store(self, start: ProductCode) -> None:
        """Round the codebooks to the width of the start's, where they fit it."""
        width = start.codebooks.width if isinstance(start.codebooks, Floats) else Width.FLOAT32
        numbers = self.books.to(start.codebooks.dtype)
        stored = Floats.holding(numbers, width)
        if not bool(torch.isfinite(stored.values).all()):
            stored = Floats.holding(numbers, Width.FLOAT32)
        self.stored, self.books = stored, stored.values.double()
        self.left = self.target - self.decoded()

    def code(self, w: Tensor) -> ProductCode:
        cut = (len(w), self.subspaces, *w.shape[2:])
        return ProductCode(tuple(w.shape), w.dtype, self.owners.reshape(cut).to(torch.int32), self.stored)

"""Product quantization: a weight is cut into short vectors, and each is one of a codebook's."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, log2, prod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from featherweight.core.code import Code, Layout, Stream, Take, direct, latent, part_streams, read_part
from featherweight.core.errors import FormatError, SchemeError
from featherweight.core.metric import EUCLIDEAN, Metric
from featherweight.core.rate import Rate
from featherweight.core.scheme import Promise, Scheme, check_weight
from featherweight.schemes.floats import Floats, Width, rounded
from featherweight.schemes.vectors import lloyd_vectors, nearest_vectors, plus_plus

LARGEST = 4096


def subvectors(w: Tensor, dimension: int, length: int) -> Tensor:
    """[vectors, sub-spaces, length]: ``dimension`` cut into consecutive sub-spaces, the last filled up with zeros."""
    rows = w.movedim(dimension, -1).reshape(-1, w.shape[dimension])
    return F.pad(rows, (0, -rows.shape[1] % length)).reshape(len(rows), -1, length)


def joined(vectors: Tensor, shape: tuple[int, ...], dimension: int) -> Tensor:
    """The tensor of this shape whose :func:`subvectors` these are."""
    others = [size for axis, size in enumerate(shape) if axis != dimension]
    rows = vectors.reshape(*others, -1)[..., : shape[dimension]]
    return rows.movedim(-1, dimension).contiguous()


@dataclass(frozen=True, eq=False)
class ProductCode(Code):
    """Consecutive ``length`` entries along ``dimension`` are a vector of the codebook of their sub-space.

    Sub-space ``s`` holds the indices ``s · length … (s + 1) · length − 1`` of the dimension; what would lie behind its
    end is dropped. ``codebooks`` are [sub-spaces, size, length], or [1, size, length] where one is shared by all.
    """

    indices: Tensor = latent()  # int32, of the code's shape, with sub-spaces in place of the dimension's entries
    codebooks: Code = direct()
    dimension: int = 1

    @property
    def size(self) -> int:
        return self.codebooks.shape[1]

    @property
    def length(self) -> int:
        return self.codebooks.shape[2]

    @property
    def shared(self) -> bool:
        """Whether all sub-spaces have one codebook."""
        return self.codebooks.shape[0] == 1

    @property
    def bits(self) -> int:
        return max(ceil(log2(self.size)), 1)

    def decode(self) -> Tensor:
        table = self.codebooks.decode()
        owner = self.indices.movedim(self.dimension, -1).long()  # [..., sub-spaces]
        if not self.shared:
            owner = owner + self.size * torch.arange(owner.shape[-1], device=owner.device)
        return joined(table.flatten(0, 1)[owner], self.shape, self.dimension).to(self.dtype)

    def settings(self) -> tuple[int, ...]:
        return self.size, self.length, self.dimension, int(self.shared)

    def streams(self) -> Iterator[Stream]:
        yield from part_streams("codebooks", self.codebooks)
        yield Stream("indices", self.indices, self.size)

    @classmethod
    def from_streams(cls, layout: Layout, shape: tuple[int, ...], dtype: torch.dtype, take: Take) -> "ProductCode":
        wrong = FormatError(f"a product code of shape {shape} has no settings {layout.settings}")
        match layout.settings:
            case (size, length, dimension, (0 | 1) as shared) if dimension < len(shape) and len(layout.parts) == 1:
                pass
            case _:
                raise wrong
        if not 1 <= length <= shape[dimension]:
            raise wrong
        subspaces = ceil(shape[dimension] / length)
        cut = (*shape[:dimension], subspaces, *shape[dimension + 1 :])
        if not 1 <= size <= min(LARGEST, prod(cut) if shared else prod(cut) // subspaces):
            raise wrong  # no more vectors in a codebook than it stands for, so that memory is bounded
        numbers = torch.float64 if dtype == torch.float64 else torch.float32
        books = read_part(layout, 0, (1 if shared else subspaces, size, length), numbers, take, "codebooks")
        return cls(shape, dtype, take("indices", cut, size).to(torch.int32), books, dimension)


@dataclass(frozen=True)
class Product(Scheme):
    """``min Σ_s Σ_i ‖w_is − c_s,a(i,s)‖²`` over codebooks ``c_s`` of at most ``size`` vectors and assignments ``a``.

    ``w_is`` are the sub-vectors of ``length`` consecutive entries along ``dimension`` (0 are a layer's outputs, 1 its
    inputs; in a convolution each kernel position is a vector of its own). Each sub-space ``s`` has a codebook (product
    quantization, Jégou, Douze and Schmid 2011; of layers, Gong, Liu, Yang and Bourdev 2014, arXiv 1412.6115, section
    3.3), or all ``shared`` one. ``length`` ``None`` takes the dimension whole: plain vector quantization. The last
    sub-space may be shorter. Sums of it are residual quantization: ``Plus(Product(…), Product(…))``.

    k-means: seeded k-means++, then at most ``iterations`` of Lloyd's, empty clusters revived. In a diagonal metric
    every component of every vector has its weight, of which none is taken below 10⁻⁹ of their mean, so that vectors of
    no weight have a place too. Vectors are stored in float16 where that moves no entry by more than 2⁻¹¹ of the
    largest, else in float32, ascending; unused ones are dropped, and sub-spaces that use fewer than others repeat their
    last. With no more distinct sub-vectors than ``size``, these are the codebook. A rate is not minded.
    """

    promise: ClassVar[Promise] = Promise.LOCAL

    length: int | None = 4
    size: int = 256
    dimension: int = 1
    shared: bool = False
    iterations: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 1:
            raise SchemeError(f"sub-vectors of {self.length} entries: give 1 or more, or None for the whole dimension")
        if not 1 <= self.size <= LARGEST:
            raise SchemeError(f"a codebook of {self.size} vectors is not in 1..{LARGEST}")
        if self.dimension < 0 or self.iterations < 0:
            raise SchemeError(f"dimension {self.dimension}, {self.iterations} iterations: neither is below 0")

    def cut(self, w: Tensor) -> int:
        """The length of this weight's sub-vectors. Raises ``SchemeError`` where it has no such dimension."""
        if self.dimension >= w.ndim:
            raise SchemeError(f"a tensor of shape {tuple(w.shape)} has no dimension {self.dimension}; leave it out")
        return min(self.length or w.shape[self.dimension], w.shape[self.dimension])

    def project(
        self, w: Tensor, metric: Metric = EUCLIDEAN, *, warm: Code | None = None, rate: Rate | None = None
    ) -> ProductCode:
        check_weight(w)
        length = self.cut(w)
        x = subvectors(w.detach().double(), self.dimension, length)
        d = self._weights(metric.weights(w), length)
        if warm is not None:
            books = as_product(warm).codebooks
            table = books.decode().detach().double()
            found = [nearest_vectors(xs, ds, table[s]) for s, (xs, ds) in enumerate(self._spaces(x, d))]
            return coded(w, found, books, self.dimension, tuple(x.shape[:2]))
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        numbers = torch.float64 if w.dtype == torch.float64 else torch.float32
        spaces = list(self._spaces(x, d))
        fitted = [self._fitted(xs, ds, generator).to(numbers) for xs, ds in spaces]
        width = _width(torch.cat(fitted))
        tables, found = [], []
        for (xs, ds), book in zip(spaces, fitted, strict=True):
            ascending: Tensor = rounded(book, width).unique(dim=0)  # type: ignore[no-untyped-call]
            used, among = nearest_vectors(xs, ds, ascending.double()).unique(return_inverse=True)  # type: ignore[no-untyped-call]
            tables.append(ascending[used])
            found.append(among)
        return coded(w, found, Floats.holding(_stacked(tables), width), self.dimension, tuple(x.shape[:2]))

    def _weights(self, weights: Tensor | None, length: int) -> Tensor | None:
        if weights is None:
            return None
        wide = weights.double()
        floor = 1e-9 * float(wide.mean()) or 1.0  # all alike where none has a weight
        return subvectors(wide.clamp(min=floor), self.dimension, length)

    def _spaces(self, x: Tensor, d: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The vectors of every codebook, with their weights."""
        if self.shared:
            yield x.flatten(0, 1), None if d is None else d.flatten(0, 1)
        else:
            yield from ((x[:, s], None if d is None else d[:, s]) for s in range(x.shape[1]))

    def _fitted(self, x: Tensor, d: Tensor | None, generator: torch.Generator) -> Tensor:
        distinct: Tensor = x.unique(dim=0)  # type: ignore[no-untyped-call]
        if len(distinct) <= self.size:
            return distinct
        return lloyd_vectors(x, d, plus_plus(x, d, self.size, generator), self.iterations)


def coded(w: Tensor, found: list[Tensor], books: Code, dimension: int, cut: tuple[int, ...]) -> ProductCode:
    """The code of a weight: indices of every codebook's vectors, which are ``cut`` into [vectors, sub-spaces]."""
    among = found[0].reshape(cut) if len(found) == 1 else torch.stack(found, 1)
    others = [size for axis, size in enumerate(w.shape) if axis != dimension]
    indices = among.reshape(*others, cut[1]).movedim(-1, dimension).contiguous().to(torch.int32)
    return ProductCode(tuple(w.shape), w.dtype, indices, books, dimension)


def _width(values: Tensor) -> Width:
    """A component next to zero needs no digits of its own: dead inputs have many of them."""
    moved = (rounded(values, Width.FLOAT16) - values).abs().max()
    return Width.FLOAT16 if bool(moved <= 2**-11 * values.abs().max()) else Width.FLOAT32


def _stacked(tables: list[Tensor]) -> Tensor:
    """Codebooks of one size: shorter ones repeat their last vector."""
    size = max(len(table) for table in tables)
    return torch.stack([torch.cat([table, table[-1:].expand(size - len(table), -1)]) for table in tables])


def as_product(code: Code) -> ProductCode:
    if not isinstance(code, ProductCode):
        raise SchemeError(f"a warm start of a product scheme is a product code, not {type(code).__name__}")
    return code

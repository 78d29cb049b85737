"""Classed lines: lines of an array with similar distributions share one.

The layers of a trained network hold channels and kernels of very different scale. Each line of a view gets one of a
few classes; the classes are sent first, then the lines of class 0 as one block-adaptive stream, those of class 1, and
so on. The classes are found by alternating assignment and re-estimation under the code length: the algorithm of Lloyd
(1982) with the Kullback-Leibler divergence for the distance.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featherweight.coding.adaptive import Prior, block_counts, choose_prior, decode_blocks, encode_blocks
from featherweight.coding.rangecoder import RangeDecoder, RangeEncoder
from featherweight.coding.stream import VIEWS, Stream, Values
from featherweight.core.errors import FormatError

MAX_CLASSES = 8
_MAX_TABLE = 1 << 20  # counts (lines times alphabet): bounds the memory and the time of the search
_SEARCH_CLASSES = (2, 3, 4, 6, 8)
_ROUNDS = 6
_SETTLED = 500  # the search ends when at most one line in so many changes its class
_PIECE = 1 << 18  # symbols

Labels = NDArray[np.uint8]
LineCounts = NDArray[np.float64]


@dataclass(frozen=True)
class Classes:
    """The description: a class (label) for each line of a view, and a prior for each class; and the bits of all."""

    view: int
    labels: Labels
    label_prior: Prior
    priors: tuple[Prior, ...]
    bits: float


def plan(stream: Stream) -> Classes | None:
    """The description with the fewest bits: one is picked by an estimate, its bits are exact.

    A view that two classes do not help is given up: on large arrays the search would take longer than the coding.
    """
    found: list[tuple[float, int, int, Labels]] = []
    for number in range(VIEWS):
        view = stream.view(number)
        if view is None or not _fits(view, stream.alphabet):
            continue
        counts = _line_counts(view, stream.alphabet)
        unclassed, _ = _cluster(counts, 1)
        for classes in _SEARCH_CLASSES:
            if classes > len(counts):
                break
            estimate, labels = _cluster(counts, classes)
            if estimate >= unclassed:
                break
            found.append((estimate, number, classes, labels))
    if not found:
        return None
    _, number, classes, labels = min(found, key=lambda entry: entry[:3])
    return _measure(stream, number, labels, classes)


def _fits(view: Values, alphabet: int) -> bool:
    return int(view.shape[0]) * alphabet <= _MAX_TABLE


def _line_counts(view: Values, alphabet: int) -> LineCounts:
    """Symbol counts of each line: shape (lines, alphabet)."""
    count = view.shape[0]
    total = np.zeros((count, alphabet))
    step = max(1, _PIECE // (view.shape[1] * view.shape[2]))
    for start in range(0, count, step):
        piece = view[start : start + step].astype(np.int64)
        piece += (np.arange(len(piece)) * alphabet)[:, None, None]
        table = np.bincount(piece.ravel(), minlength=len(piece) * alphabet)
        total[start : start + step] = table.reshape(len(piece), alphabet)
    return total


def _cluster(counts: LineCounts, classes: int) -> tuple[float, Labels]:
    """Labels for the lines, and an estimate of the bits of labels and lines."""
    count, alphabet = counts.shape
    mode = int(np.argmax(counts.sum(axis=0)))
    spread = (counts * np.abs(np.arange(alphabet) - mode)).sum(axis=1) / counts.sum(axis=1)
    labels = np.empty(count, dtype=np.uint8)
    labels[np.argsort(spread, kind="stable")] = np.arange(count) * classes // count
    for _ in range(_ROUNDS):
        members = np.stack([counts[labels == label].sum(axis=0) for label in range(classes)]) + 0.25
        sizes = np.bincount(labels, minlength=classes) + 0.25
        surprise = -np.log2(members / members.sum(axis=1, keepdims=True))
        # einsum, not a matrix product: that would wake the threads of a BLAS, which takes longer when cores are busy.
        lengths = np.einsum("ls,cs->lc", counts, surprise) - np.log2(sizes / sizes.sum())
        renewed = np.argmin(lengths, axis=1).astype(np.uint8)
        moved = int(np.count_nonzero(renewed != labels))
        labels = renewed
        if moved * _SETTLED <= count:
            break
    # Rissanen's log2(n) / 2 bits for each symbol that a class has to learn.
    learning = (members >= 1).sum(axis=1) * np.log2(1 + members.sum(axis=1)) / 2
    return float(lengths.min(axis=1).sum() + learning.sum()), labels


def _measure(stream: Stream, number: int, labels: Labels, classes: int) -> Classes:
    """The description with these labels, with the best priors."""
    view = stream.view(number)
    assert view is not None
    bits, label_prior = choose_prior(block_counts(labels, classes))
    priors = []
    for label in range(classes):
        member_bits, prior = choose_prior(block_counts(view[labels == label].ravel(), stream.alphabet))
        bits += member_bits
        priors.append(prior)
    return Classes(number, labels, label_prior, tuple(priors), bits + float(np.log2(VIEWS * MAX_CLASSES)))


def encode(coder: RangeEncoder, stream: Stream, found: Classes) -> None:
    """View, number of classes, labels; then, for each class, its prior and its lines."""
    view = stream.view(found.view)
    assert view is not None
    classes = len(found.priors)
    coder.number(found.view, VIEWS)
    coder.number(classes - 1, MAX_CLASSES)
    found.label_prior.encode(coder, classes)
    encode_blocks(coder, found.labels, classes, found.label_prior)
    for label, prior in enumerate(found.priors):
        prior.encode(coder, stream.alphabet)
        encode_blocks(coder, view[found.labels == label].ravel(), stream.alphabet, prior)


def decode(coder: RangeDecoder, stream: Stream) -> None:
    """The counterpart of :func:`encode`."""
    view = stream.view(coder.number(VIEWS))
    classes = coder.number(MAX_CLASSES) + 1
    if view is None or not _fits(view, stream.alphabet):
        raise FormatError(f"symbols of shape {stream.shape} cannot be coded by classes: the data is damaged")
    labels = np.zeros(len(view), dtype=np.uint8)
    decode_blocks(coder, labels, classes, Prior.decode(coder, classes))
    for label in range(classes):
        chosen = labels == label
        members = np.zeros((int(chosen.sum()), *view.shape[1:]), dtype=view.dtype)
        decode_blocks(coder, members.reshape(-1), stream.alphabet, Prior.decode(coder, stream.alphabet))
        view[chosen] = members

"""Writes the hostile files that are kept in ``files/``: ``python tests/attacks/make.py``.

Each is whole and has the right checksum; the name says what it attacks. Add a builder here and run this; files that
exist already are left as they are, so that an attack of today's format is kept when the format grows.
"""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.coding import Encoder, Writer, seal

FILES = Path(__file__).parent / "files"
FLOATS, EXACT, SPARSE, UNIFORM, CODEBOOK, LOW_RANK = range(6)
LOG, TERNARY, TABLE = 7, 8, 9
SPLIT, FIXED_POINT, PRODUCT = 14, 15, 16
BOXES, RUNS = 17, 18
MIXTURE = 12
REFERENCE = 10

Tree = tuple[int, tuple[int, ...], tuple[Any, ...]]
"""A layout: kind, settings, parts."""

LEAF: Tree = (FLOATS, (0,), ())
HALF: Tree = (FLOATS, (1,), ())
FIRST: Tree = (REFERENCE, (0,), ())


def user(header: Any, coded: bytes = b"") -> bytes:
    """A user's file with this header: a value that is written as JSON, or the text itself."""
    writer = Writer()
    writer.unsigned(1)
    writer.text(header if isinstance(header, str) else json.dumps(header))
    return seal(writer.finish() + coded)


def tensors(*slots: Any, **more: Any) -> dict[str, Any]:
    return {"tensors": list(slots), **more}


def coded(*layouts: Tree, streams: tuple[tuple[Any, int], ...] = (), count: int = 1) -> bytes:
    """A palette of layouts, the first of which all tensors have, and streams of (symbols, alphabet)."""
    encoder = Encoder()
    encoder.put_number(len(layouts))
    for layout in layouts:
        put(encoder, layout)
    encoder.put(np.zeros(count, dtype=np.int64), max(len(layouts), 1))
    for values, alphabet in streams:
        encoder.put(np.asarray(values), alphabet)
    return encoder.finish()


def put(encoder: Encoder, layout: Tree) -> None:
    kind, settings, parts = layout
    for number in (kind, len(settings), *settings, len(parts)):
        encoder.put_number(number)
    for part in parts:
        put(encoder, part)


def one(shape: list[Any], layout: Tree, *streams: tuple[Any, int], dtype: str = "float32") -> bytes:
    """A file of one tensor."""
    return user(tensors(["w", shape, dtype]), coded(layout, streams=streams))


def nested(depth: int) -> Tree:
    return LEAF if depth == 0 else (SPARSE, (), (nested(depth - 1),))


def cut(kept: Any) -> bytes:
    return user(tensors(["up", [4, 6], "float32"], edits=[["cut", kept]]), coded(LEAF))


def edit(kind: str, record: Any) -> bytes:
    """The victim's own tensors, left to its architecture, with one edit."""
    return packed({"number": 3, "edits": [[kind, record]]}, coded(LEAF))


def tensor(shape: list[int]) -> dict[str, Any]:
    return {"shape": shape, "type": "float32"}


def blob(data: bytes, coded: bytes = b"") -> bytes:
    """A file with these bytes in place of a deflated header."""
    writer = Writer()
    writer.unsigned(2)
    writer.blob(data)
    return seal(writer.finish() + coded)


def packed(header: Any, coded: bytes = b"") -> bytes:
    """The same as :func:`user`, deflated."""
    return blob(zlib.compress((header if isinstance(header, str) else json.dumps(header)).encode(), 9), coded)


def taps(*rows: Any) -> bytes:
    """A file of no tensors, that is right but for its taps."""
    return packed({"tensors": [], "taps": list(rows)}, coded())


def bomb(piece: str, size: int) -> bytes:
    """A header of a great many things, in a few kilobytes."""
    return packed('{"tensors":[' + piece * (size // len(piece)) + "0]}")


def tap(*place: Any) -> bytes:
    return taps(["sign", [], [list(place)]])


def quantizer(*settings: Any) -> bytes:
    return taps(["uniform", list(settings), [PLACE]])


def fold(*records: Any) -> bytes:
    """The victim's own tensors, left to its architecture, with folds."""
    return packed({"number": 3, "edits": [["fold", record] for record in records]}, coded(LEAF))


def two(*layouts: Tree, chosen: tuple[int, int] = (0, 1), streams: tuple[tuple[Any, int], ...] = ()) -> bytes:
    """A file of two tensors of two entries with these layouts."""
    encoder = Encoder()
    encoder.put_number(len(layouts))
    for layout in layouts:
        put(encoder, layout)
    encoder.put(np.array(chosen), len(layouts))
    for values, alphabet in streams:
        encoder.put(np.asarray(values), alphabet)
    return user(tensors(["v", [2], "float32"], ["w", [2], "float32"]), encoder.finish())


PLACE = ["layer", "convolve", 0, 0]

ATTACKS: dict[str, Callable[[], bytes]] = {
    "header-kind-unknown": lambda: seal(b"\x07" + coded(LEAF)),
    "header-longer-than-the-file": lambda: seal(b"\x01\xff\xff\xff\xff\x0f{}"),
    "header-length-without-end": lambda: seal(b"\x01" + b"\xff" * 20),
    "header-not-utf-8": lambda: seal(b"\x01\x04\xff\xfe\xfd\xfc"),
    "json-nothing": lambda: user(""),
    "json-null": lambda: user(None),
    "json-a-number": lambda: user(7),
    "json-a-list": lambda: user([1, 2]),
    "json-nested-deep": lambda: user("[" * 1500),
    "json-objects-nested-deep": lambda: user('{"tensors":' * 130 + "[]" + "}" * 130),
    "json-a-long-number": lambda: user('{"tensors":[["w",[' + "9" * 1500 + '],"float32"]]}'),
    "json-an-infinite-size": lambda: user('{"tensors":[["w",[Infinity],"float32"]]}'),
    "json-no-tensors": lambda: user({"recipe": "x"}),
    "tensors-a-text": lambda: user({"tensors": "abc"}),
    "tensors-an-object": lambda: user({"tensors": {"w": [1]}}),
    "tensors-of-nothing": lambda: user(tensors([])),
    "tensors-named-by-numbers": lambda: user(tensors([1, [2], "float32"])),
    "tensors-of-the-same-name": lambda: user(
        tensors(["w", [1], "bool"], ["w", [2], "bool"]),
        coded((EXACT, (), ()), streams=(([1], 2), ([1, 0], 2)), count=2),
    ),
    "tensors-tied-to-each-other": lambda: user(
        tensors(["a", [1], "bool", "b"], ["b", [1], "bool", "a"]),
        coded((EXACT, (), ()), streams=(([1], 2), ([1], 2)), count=2),
    ),
    "name-with-half-a-character": lambda: user(
        '{"tensors":[["\\ud800",[1],"bool"]]}', coded((EXACT, (), ()), streams=(([1], 2),))
    ),
    "task-with-half-a-character": lambda: user('{"tensors":[],"task":"\\udfff"}', coded()),
    "type-unknown": lambda: user(tensors(["w", [2], "complex64"]), coded(LEAF)),
    "type-a-list": lambda: user(tensors(["w", [2], ["float32"]]), coded(LEAF)),
    "shape-a-number": lambda: user(tensors(["w", 3, "float32"]), coded(LEAF)),
    "shape-negative": lambda: user(tensors(["w", [-1], "float32"]), coded(LEAF)),
    "shape-of-truth": lambda: user(tensors(["w", [True], "float32"]), coded(LEAF)),
    "shape-of-fractions": lambda: user(tensors(["w", [1.5], "float32"]), coded(LEAF)),
    "shape-huge": lambda: one([2**47], (CODEBOOK, (1,), (LEAF,)), ([0], 2**32)),
    "shape-huge-in-all": lambda: one([2**20] * 16, (CODEBOOK, (1,), (LEAF,)), ([0], 2**32)),
    "shape-huge-and-zero": lambda: one([0, 2**47, 2**47], LEAF),
    "shape-huge-and-zero-for-a-codebook": lambda: one([2**40, 0, 2**40], (CODEBOOK, (1,), (LEAF,)), ([0], 2**32)),
    "shape-of-many-dimensions": lambda: one([1] * 17, LEAF, (np.zeros([1] * 17, int), 2**32)),
    "claims-of-text": lambda: user(tensors(claims=["1", 1, 1, 1]), coded()),
    "claims-too-few": lambda: user(tensors(claims=[1, 1, 1]), coded()),
    "claims-not-a-number": lambda: user('{"tensors":[],"claims":[1,NaN,1,0]}', coded()),
    "claims-too-large": lambda: user('{"tensors":[],"claims":[1,1' + "0" * 400 + ",1,0]}", coded()),
    "claims-lost-too-many": lambda: user(tensors(claims=[1, 1, 1, 2]), coded()),
    "number-a-text": lambda: user(tensors(number="1"), coded()),
    "number-a-truth": lambda: user(tensors(number=True), coded()),
    "task-a-list": lambda: user(tensors(task=["os"]), coded()),
    "edits-unknown": lambda: user(tensors(edits=[["os.system", {"command": "true"}]]), coded()),
    "edits-a-number": lambda: user(tensors(edits=3), coded()),
    "edits-too-short": lambda: user(tensors(edits=[["cut"]]), coded()),
    "cut-a-list": lambda: cut([1]),
    "cut-of-nothing-known": lambda: cut({"nothing": {"0": [0]}}),
    "cut-of-everything": lambda: cut({"up": {"0": []}}),
    "cut-beyond": lambda: cut({"up": {"0": [0, 9]}}),
    "cut-negative-dimension": lambda: cut({"up": {"-5": [0]}}),
    "cut-of-a-number": lambda: cut({"scale": {"0": [0]}}),
    "cut-of-text": lambda: cut({"up": {"x": [0]}}),
    "sizes-a-list": lambda: edit("sizes", [1]),
    "sizes-of-nothing-known": lambda: edit("sizes", {"nothing": {"width": 1}}),
    "sizes-of-no-number": lambda: edit("sizes", {"": {"training": 0}}),
    "sizes-a-truth": lambda: edit("sizes", {"": {"training": True}}),
    "sizes-negative": lambda: edit("sizes", {"": {"width": -1}}),
    "sizes-huge": lambda: edit("sizes", {"": {"width": 10**15}}),
    "sizes-of-a-class": lambda: edit("sizes", {"": {"__class__": 1}}),
    "group-of-nothing-known": lambda: edit("group", {"nothing": {"inputs": [[0]]}}),
    "group-of-the-model": lambda: edit("group", {"": {"inputs": [[0]]}}),
    "group-of-a-norm": lambda: edit("group", {"norm": {"inputs": [[0]]}}),
    "group-a-list": lambda: edit("group", [["layer", [[0]]]]),
    "group-of-a-list": lambda: edit("group", {"layer": [[0]]}),
    "group-of-none": lambda: edit("group", {"layer": {"inputs": []}}),
    "group-of-no-inputs": lambda: edit("group", {"layer": {"inputs": [[], [], []]}}),
    "group-of-a-number": lambda: edit("group", {"layer": {"inputs": [0, 0, 0]}}),
    "group-of-text": lambda: edit("group", {"layer": {"inputs": "012"}}),
    "group-of-truth": lambda: edit("group", {"layer": {"inputs": [[True], [True], [True]]}}),
    "group-of-fractions": lambda: edit("group", {"layer": {"inputs": [[0.0], [0.0], [0.0]]}}),
    "group-negative": lambda: edit("group", {"layer": {"inputs": [[-1], [0], [0]]}}),
    "group-beyond": lambda: edit("group", {"layer": {"inputs": [[0], [1], [2]]}}),
    "group-very-far-beyond": lambda: edit("group", {"layer": {"inputs": [[0], [1], [10**1500]]}}),
    "group-of-an-input-twice": lambda: edit("group", {"layer": {"inputs": [[0, 0], [0, 1], [0, 1]]}}),
    "group-of-unequal-inputs": lambda: edit("group", {"layer": {"inputs": [[0], [0, 1], [0]]}}),
    "group-of-unequal-outputs": lambda: edit("group", {"layer": {"inputs": [[0], [1]]}}),
    "group-of-many": lambda: edit("group", {"layer": {"inputs": [[0]] * 900}}),
    "group-of-an-output-twice": lambda: edit("group", {"layer": {"inputs": [[0]] * 3, "outputs": [0, 0, 1]}}),
    "group-of-too-few-outputs": lambda: edit("group", {"layer": {"inputs": [[0]], "outputs": [1, 0]}}),
    "group-of-outputs-beyond": lambda: edit("group", {"layer": {"inputs": [[0]], "outputs": [1, 2, 3]}}),
    "group-of-outputs-of-text": lambda: edit("group", {"layer": {"inputs": [[0]], "outputs": "012"}}),
    "group-of-mixed-outputs": lambda: edit("group", {"layer": {"inputs": [[0]], "outputs": [0, "1", 2]}}),
    "group-twice": lambda: packed(
        {"number": 3, "edits": [["group", {"layer": {"inputs": [[0]] * 3}}]] * 2}, coded(LEAF)
    ),
    "skip-nothing": lambda: edit("skip", {}),
    "skip-the-model": lambda: edit("skip", {"blocks": [""]}),
    "skip-twice": lambda: edit("skip", {"blocks": ["up", "up"]}),
    "skip-a-number": lambda: edit("skip", {"blocks": [1]}),
    "skip-unknown": lambda: edit("skip", {"blocks": ["nothing"]}),
    "unbias-nothing": lambda: edit("unbias", {}),
    "unbias-twice": lambda: edit("unbias", {"layers": ["layer", "layer"]}),
    "unbias-a-number": lambda: edit("unbias", {"layers": [1]}),
    "unbias-unknown": lambda: edit("unbias", {"layers": ["nothing"]}),
    "step-a-list": lambda: edit("step", []),
    "step-unknown": lambda: edit("step", {"nothing": {}}),
    "step-of-no-lstm": lambda: edit("step", {"layer": {"hidden_l0": [4, -8, 0.25]}}),
    "step-of-no-signal": lambda: edit("step", {"layer": {"__class__": [4, -8, 0.25]}}),
    "step-of-no-quantizer": lambda: edit("step", {"layer": {"hidden_l0": [99, -8, 0.25]}}),
    "cut-graph-of-nothing": lambda: edit("cut-graph", {}),
    "cut-graph-without-input": lambda: edit("cut-graph", {"kept": {}, "given": []}),
    "cut-graph-of-a-huge-input": lambda: edit("cut-graph", {"kept": {}, "given": [[tensor([2**40])], {}]}),
    "cut-graph-of-many-inputs": lambda: edit("cut-graph", {"kept": {}, "given": [[tensor([1])] * 500, {}]}),
    "cut-graph-of-another-input": lambda: edit("cut-graph", {"kept": {}, "given": [[tensor([1, 1, 1])], {}]}),
    "cut-graph-of-no-type": lambda: edit("cut-graph", {"kept": {}, "given": [[{"shape": [1], "type": "save"}], {}]}),
    "cut-graph-of-frozen": lambda: edit("cut-graph", {"kept": {"up": {"0": [0]}}, "given": [[tensor([1, 6])], {}]}),
    "codes-none": lambda: user(tensors(["w", [2], "float32"]), b""),
    "codes-of-no-layout": lambda: user(tensors(["w", [2], "float32"]), coded()),
    "codes-left-over": lambda: user(tensors(), coded(streams=((np.arange(50) % 7, 7),))),
    "palette-too-large": lambda: user(tensors(["w", [2], "float32"]), coded(*[LEAF] * 9)),
    "kind-unknown": lambda: one([2], (2**40, (), ())),
    "settings-too-many": lambda: one([2], (FLOATS, (0,) * 9, ())),
    "parts-too-many": lambda: one([2], (SPARSE, (), (LEAF,) * 5)),
    "layouts-nested-deep": lambda: one([2], nested(40)),
    "floats-of-width-4": lambda: one([2], (FLOATS, (4,), ()), ([0, 0], 2**32)),
    "floats-with-a-part": lambda: one([2], (FLOATS, (0,), (LEAF,)), ([0, 0], 2**32)),
    "exact-of-floats": lambda: one([2], (EXACT, (), ()), ([0, 0], 2**32)),
    "sparse-without-values": lambda: one([2], (SPARSE, (), ()), ([0, 1], 2)),
    "sparse-of-nothing-by-channel": lambda: one(
        [4], (SPARSE, (), ((UNIFORM, (4, 1, 1, 0), (LEAF,)),)), ([0, 0, 0, 0], 2)
    ),
    "boxes-without-sizes": lambda: one([2, 2], (BOXES, (), (LEAF,)), ([0, 1], 2), ([0], 2**32)),
    "boxes-of-another-rank": lambda: one([2, 2], (BOXES, (0, 1), (LEAF,)), ([0, 1], 2), ([0, 0], 2**32)),
    "boxes-of-a-matrix-twice": lambda: one([2, 2], (BOXES, (2, 1, 0), (LEAF,)), ([0, 1], 2), ([0, 0], 2**32)),
    "boxes-without-values": lambda: one([2, 2], (BOXES, (0, 1, 0), ()), ([[0], [1]], 2)),
    "boxes-of-nothing-by-channel": lambda: one(
        [2, 2], (BOXES, (0, 2**40, 0), ((UNIFORM, (4, 1, 1, 0), (LEAF,)),)), ([[0]], 2)
    ),
    "boxes-over-many-dimensions": lambda: one(
        [1] * 8, (BOXES, (0, *[1] * 7), (LEAF,)), (np.ones([1] * 8, int), 2), ([0], 2**32)
    ),
    "runs-of-none": lambda: one([4], (RUNS, (0, 4, 0), (LEAF,)), ([[0]], 1)),
    "runs-of-more-than-there-are": lambda: one([4], (RUNS, (5, 4, 0), (LEAF,)), ([[0]], 16)),
    "runs-too-long": lambda: one([4], (RUNS, (1, 2**40, 0), (LEAF,)), ([[0]], 2)),
    "runs-of-too-many-patterns": lambda: one([4], (RUNS, (16, 32, 0), (LEAF,)), ([[0]], 2)),
    "runs-beyond-the-row": lambda: one([2], (RUNS, (1, 4, 0), (LEAF,)), ([[4]], 5), ([0], 2**32)),
    "runs-permuted-twice": lambda: one([2, 4], (RUNS, (1, 2, 2), (LEAF,)), ([0, 0, 1, 1], 2), ([[0, 0]] * 2, 3)),
    "runs-of-no-channels": lambda: one([4], (RUNS, (1, 2, 1), (LEAF,)), ([0, 0, 1, 1], 2), ([[0, 0]], 3)),
    "runs-of-three-channels-and-one": lambda: one(
        [1, 4], (RUNS, (1, 2, 1), (LEAF,)), ([0, 0, 0, 1], 2), ([[1, 1]], 3), ([0, 0], 2**32)
    ),
    "runs-without-values": lambda: one([2], (RUNS, (1, 2, 0), ()), ([[1]], 3)),
    "uniform-of-64-bits": lambda: one([2], (UNIFORM, (64, 1, 0), (LEAF,)), ([0, 0], 2)),
    "uniform-group-across-rows": lambda: one(
        [2, 3], (UNIFORM, (2, 1, 2, 6), (LEAF,)), (np.zeros((2, 3), int), 3), ([0], 2**32)
    ),
    "uniform-group-of-none": lambda: one([2], (UNIFORM, (2, 1, 2, 0), (LEAF,)), ([0, 0], 3)),
    "uniform-channel-beyond": lambda: one([2], (UNIFORM, (2, 1, 1, 7), (LEAF,)), ([0, 0], 3)),
    "uniform-of-nothing-by-channel": lambda: one([0, 3], (UNIFORM, (2, 1, 1, 0), (LEAF,))),
    "uniform-of-no-rows-by-group": lambda: one([0, 4], (UNIFORM, (2, 1, 2, 2), (LEAF,))),
    "log-of-no-magnitudes": lambda: one([2], (LOG, (0, 1, 1, 0), ()), ([0, 0], 1)),
    "log-of-many-magnitudes": lambda: one([2], (LOG, (2**40, 1, 1, 0), ()), ([0, 0], 2**32)),
    "log-of-base-3": lambda: one([2], (LOG, (2, 3, 1, 0), ()), ([0, 0], 5), ([9], 254)),
    "log-of-two-scales": lambda: one([2], (LOG, (2, 1, 1, 0), (LEAF, LEAF)), ([0, 0], 5), ([9], 254)),
    "log-of-no-spread": lambda: one([2], (LOG, (2, 1, 1), ()), ([0, 0], 5), ([9], 254)),
    "log-group-across-rows": lambda: one([2, 3], (LOG, (2, 1, 1, 2, 6), ()), (np.zeros((2, 3), int), 5)),
    "log-of-integers": lambda: one([2], (LOG, (2, 1, 1, 0), ()), ([0, 0], 5), ([9], 254), dtype="int32"),
    "ternary-of-one-number": lambda: one([2], (TERNARY, (0,), (LEAF,)), ([0, 1], 3)),
    "ternary-of-nothing": lambda: one([0], (TERNARY, (0,), (LEAF, LEAF))),
    "ternary-channel-beyond": lambda: one([2], (TERNARY, (1, 3), (LEAF, LEAF)), ([0, 1], 3)),
    "ternary-with-bits": lambda: one([2], (TERNARY, (0, 2), (LEAF, LEAF)), ([0, 1], 3)),
    "table-unknown": lambda: one([2], (TABLE, (2, 0), (LEAF,)), ([0, 1], 256), ([0], 2**32)),
    "table-without-a-scale": lambda: one([2], (TABLE, (0, 0), ()), ([0, 1], 256)),
    "table-group-of-none": lambda: one([2], (TABLE, (0, 2, 0), (LEAF,)), ([0, 1], 256)),
    "codebook-of-none": lambda: one([2], (CODEBOOK, (0,), (LEAF,))),
    "codebook-huge": lambda: one([2], (CODEBOOK, (2**40,), (LEAF,))),
    "codebook-larger-than-its-tensor": lambda: one(
        [1], (CODEBOOK, (4096,), (HALF,)), (np.zeros(4096, int), 2**16), ([4095], 4096)
    ),
    "shared-by-itself": lambda: one([2], (CODEBOOK, (1,), (FIRST,))),
    "shared-by-each-other": lambda: two((CODEBOOK, (1,), (FIRST,)), (CODEBOOK, (1,), ((REFERENCE, (1,), ()),))),
    "shared-a-whole-tensor": lambda: two((CODEBOOK, (1,), (HALF,)), FIRST, streams=(([0], 2**16),)),
    "shared-of-another-size": lambda: two(
        (CODEBOOK, (1,), (HALF,)), (CODEBOOK, (2,), (FIRST,)), streams=(([0], 2**16), ([0, 1], 2))
    ),
    "shared-beyond": lambda: two(
        (CODEBOOK, (1,), (HALF,)), (CODEBOOK, (1,), ((REFERENCE, (2**40,), ()),)), streams=(([0], 2**16),)
    ),
    "shared-of-nobody": lambda: two((CODEBOOK, (1,), (HALF,)), (CODEBOOK, (1,), ((REFERENCE, (), ()),))),
    "shared-with-a-part": lambda: two((CODEBOOK, (1,), (HALF,)), (CODEBOOK, (1,), ((REFERENCE, (0,), (HALF,)),))),
    "shared-and-huge": lambda: two((CODEBOOK, (1,), (HALF,)), (CODEBOOK, (2**40,), (FIRST,)), streams=(([0], 2**16),)),
    "low-rank-of-a-vector": lambda: one([6], (LOW_RANK, (1,), (LEAF, LEAF))),
    "low-rank-of-none": lambda: one([2, 3], (LOW_RANK, (0,), (LEAF, LEAF))),
    "low-rank-too-high": lambda: one([2, 3], (LOW_RANK, (3,), (LEAF, LEAF))),
    "low-rank-of-one-factor": lambda: one([2, 3], (LOW_RANK, (1,), (LEAF,))),
    "low-rank-of-nothing": lambda: one([0, 3], (LOW_RANK, (1,), (LEAF, LEAF))),
    "split-of-one-part": lambda: one([2], (SPLIT, (), (LEAF,)), ([0, 1], 2), ([0], 2**32)),
    "split-with-settings": lambda: one([2], (SPLIT, (2,), (LEAF, LEAF)), ([0, 1], 2), ([0], 2**32), ([0], 2**32)),
    "split-with-nothing-outside": lambda: one(
        [2], (SPLIT, (), (LEAF, (UNIFORM, (2, 1, 0), (LEAF,)))), ([1, 1], 2), ([0, 0], 2**32), ([0], 2**32)
    ),
    "split-with-a-matrix-inside": lambda: one(
        [2, 2], (SPLIT, (), ((LOW_RANK, (1,), (LEAF, LEAF)), LEAF)), (np.eye(2, dtype=int), 2)
    ),
    "fixed-point-of-25-bits": lambda: one([2], (FIXED_POINT, (25, 14), ()), ([0, 0], 4096), ([0, 0], 2**13)),
    "fixed-point-of-none": lambda: one([2], (FIXED_POINT, (0, 14), ())),
    "fixed-point-too-fine": lambda: one([2], (FIXED_POINT, (2, 2**40), ()), ([0, 1], 4)),
    "fixed-point-with-a-part": lambda: one([2], (FIXED_POINT, (2, 1), (LEAF,)), ([0, 1], 4)),
    "fixed-point-of-nothing": lambda: one([0, 3], (FIXED_POINT, (2, 1), ())),
    "fixed-point-of-whole-numbers": lambda: one([2], (FIXED_POINT, (2, 0), ()), ([0, 1], 4), dtype="int64"),
    "product-of-no-length": lambda: one([4, 6], (PRODUCT, (2, 0, 1, 0), (LEAF,))),
    "product-longer-than-its-dimension": lambda: one([4, 6], (PRODUCT, (2, 7, 1, 0), (LEAF,))),
    "product-of-a-third-dimension": lambda: one([4, 6], (PRODUCT, (2, 1, 2, 0), (LEAF,))),
    "product-of-too-many-vectors": lambda: one([4, 6], (PRODUCT, (5, 3, 1, 0), (LEAF,))),
    "product-huge": lambda: one([4, 6], (PRODUCT, (2**40, 3, 1, 1), (LEAF,))),
    "product-shared-by-two": lambda: one([4, 6], (PRODUCT, (2, 3, 1, 2), (LEAF,))),
    "product-of-nothing": lambda: one([0, 6], (PRODUCT, (1, 3, 1, 1), (LEAF,))),
    "product-of-no-parts": lambda: one([4, 6], (PRODUCT, (2, 3, 1, 0), ())),
    "product-of-sparse-codebooks-of-products": lambda: one(
        [4, 6], (PRODUCT, (2, 3, 1, 0), ((SPARSE, (), ((PRODUCT, (1, 1, 0, 0), (LEAF,)),)),))
    ),
    "mixture-of-one": lambda: one([2], (MIXTURE, (1, 990_000), (LEAF, LEAF, LEAF))),
    "mixture-huge": lambda: one([2], (MIXTURE, (2**40, 990_000), (LEAF, LEAF, LEAF))),
    "mixture-all-at-zero": lambda: one([2], (MIXTURE, (2, 10**6), (LEAF, LEAF, LEAF))),
    "mixture-of-two-parts": lambda: one([2], (MIXTURE, (2, 990_000), (LEAF, LEAF))),
    "mixture-of-mixtures": lambda: one([2], (MIXTURE, (2, 990_000), ((MIXTURE, (2, 990_000), (LEAF,) * 3),) * 3)),
    "mixture-of-nothing": lambda: one([0, 3], (MIXTURE, (2, 990_000), (LEAF, LEAF, LEAF))),
    "packed-nothing": lambda: blob(b""),
    "packed-of-nothing": lambda: packed(""),
    "packed-not-deflated": lambda: blob(b'{"tensors":[]}', coded()),
    "packed-without-zlib-s-header": lambda: blob(zlib.compress(b'{"tensors":[]}')[2:-4], coded()),
    "packed-cut-short": lambda: blob(zlib.compress(b'{"tensors":[]}')[:-5], coded()),
    "packed-without-checksum": lambda: blob(zlib.compress(b'{"tensors":[]}')[:-4], coded()),
    "packed-with-a-wrong-checksum": lambda: blob(zlib.compress(b'{"tensors":[]}')[:-4] + b"1234", coded()),
    "packed-with-more-behind": lambda: blob(zlib.compress(b'{"tensors":[]}') + b"\0", coded()),
    "packed-twice": lambda: blob(zlib.compress(b'{"tensors":') + zlib.compress(b"[]}"), coded()),
    "packed-with-a-dictionary": lambda: blob(b"\x78\xbb\0\0\0\1" + zlib.compress(b'{"tensors":[]}')[2:], coded()),
    "packed-not-utf-8": lambda: blob(zlib.compress(b'{"tensors":[],"recipe":"\xff\xfe"}'), coded()),
    "packed-longer-than-the-file": lambda: seal(b"\2\xff\xff\xff\xff\x0f" + zlib.compress(b"{}")),
    "packed-bomb": lambda: bomb("[],", 1_500_000),
    "packed-nested-deep": lambda: packed("[" * 1_000_000),
    "tensors-absent-and-no-number": lambda: packed({"claims": [1, 1, 1, 0]}, coded()),
    "tensors-absent-and-number-null": lambda: packed({"number": None}, coded()),
    "tensors-null": lambda: packed({"number": 3, "tensors": None}, coded()),
    "tensors-none-for-a-model": lambda: packed({"tensors": [], "recipe": "x"}, coded(LEAF)),
    "taps-a-table": lambda: packed({"tensors": [], "taps": {"abc": 1}}, coded()),
    "taps-an-empty-table": lambda: packed({"tensors": [], "taps": {}}, coded()),
    "taps-a-text": lambda: packed({"tensors": [], "taps": "abc"}, coded()),
    "taps-null": lambda: packed({"tensors": [], "taps": None}, coded()),
    "taps-a-row-of-text": lambda: taps("abc"),
    "taps-a-short-row": lambda: taps(["sign", []]),
    "taps-a-long-row": lambda: taps(["sign", [], [PLACE], 1]),
    "function-unknown": lambda: taps(["os.system", ["true"], [PLACE]]),
    "function-a-list": lambda: taps([["sign"], [], [PLACE]]),
    "function-null": lambda: taps([None, [], [PLACE]]),
    "places-a-table": lambda: taps(["sign", [], {"layer": 1}]),
    "places-an-empty-table": lambda: taps(["sign", [], {}]),
    "places-a-text": lambda: taps(["sign", [], "abcd"]),
    "places-a-number": lambda: taps(["sign", [], 4]),
    "place-a-text": lambda: taps(["sign", [], ["abcd"]]),
    "place-a-number": lambda: taps(["sign", [], [1]]),
    "place-too-short": lambda: tap("layer", "convolve", 0),
    "place-too-long": lambda: tap("layer", "convolve", 0, 0, 0),
    "place-twice": lambda: taps(["sign", [], [PLACE, PLACE]]),
    "place-of-two-functions": lambda: taps(["sign", [], [PLACE]], ["uniform", [8, 0, 1.0], [PLACE]]),
    "module-a-number": lambda: tap(0, "convolve", 0, 0),
    "module-null": lambda: tap(None, "convolve", 0, 0),
    "module-with-half-a-character": lambda: tap("\ud800", "convolve", 0, 0),
    "module-unknown": lambda: packed({"number": 3, "taps": [["sign", [], [["nowhere", "add", 0, 0]]]]}, coded(LEAF)),
    "operator-unknown": lambda: tap("layer", "system", 0, 0),
    "operator-a-list": lambda: tap("layer", ["convolve"], 0, 0),
    "ordinal-negative": lambda: tap("layer", "convolve", -1, 0),
    "ordinal-huge": lambda: tap("layer", "convolve", 1 << 20, 0),
    "ordinal-very-huge": lambda: tap("layer", "convolve", 10**1500, 0),
    "ordinal-a-truth": lambda: tap("layer", "convolve", True, 0),
    "ordinal-a-fraction": lambda: tap("layer", "convolve", 0.0, 0),
    "operand-negative": lambda: tap("layer", "convolve", 0, -2),
    "operand-huge": lambda: tap("layer", "convolve", 0, 1 << 20),
    "operand-a-truth": lambda: tap("layer", "convolve", 0, False),
    "operand-null": lambda: tap("layer", "convolve", 0, None),
    "sign-with-settings": lambda: taps(["sign", [1], [PLACE]]),
    "sign-with-a-table": lambda: taps(["sign", {}, [PLACE]]),
    "dynamic-with-settings": lambda: taps(["dynamic", [8], [PLACE]]),
    "dynamic-with-a-table": lambda: taps(["dynamic", {}, [PLACE]]),
    "dynamic-null": lambda: taps(["dynamic", None, [PLACE]]),
    "runtime-of-nothing": lambda: taps(["runtime", [], [PLACE]]),
    "runtime-with-a-table": lambda: taps(["runtime", {"values": [[0.0]]}, [PLACE]]),
    "runtime-of-no-channels": lambda: taps(["runtime", [[[]], [0.0]], [PLACE]]),
    "runtime-of-no-choices": lambda: taps(["runtime", [[], []], [PLACE]]),
    "runtime-of-unequal-rows": lambda: taps(["runtime", [[[0.0], [0.0, 1.0]], [0.0, 0.0]], [PLACE]]),
    "runtime-of-too-few-biases": lambda: taps(["runtime", [[[0.0], [1.0]], [0.0]], [PLACE]]),
    "runtime-of-whole-numbers": lambda: taps(["runtime", [[[0], [1]], [0.0, 0.0]], [PLACE]]),
    "runtime-of-truth": lambda: taps(["runtime", [[[True], [False]], [0.0, 0.0]], [PLACE]]),
    "runtime-of-text": lambda: taps(["runtime", [["01", "23"], [0.0, 0.0]], [PLACE]]),
    "runtime-of-no-number": lambda: taps(["runtime", [[[float("nan")], [0.0]], [0.0, 0.0]], [PLACE]]),
    "runtime-overflowing": lambda: taps(["runtime", [[[1e39], [0.0]], [0.0, 0.0]], [PLACE]]),
    "log-taps-of-nothing": lambda: taps(["logarithmic", [], [PLACE]]),
    "log-taps-of-no-magnitudes": lambda: taps(["logarithmic", [0, 1, 0, 1], [PLACE]]),
    "log-taps-of-base-3": lambda: taps(["logarithmic", [7, 3, 0, 1], [PLACE]]),
    "log-taps-too-high": lambda: taps(["logarithmic", [7, 2, 256, 1], [PLACE]]),
    "log-taps-of-truth": lambda: taps(["logarithmic", [7, 2, 0, True], [PLACE]]),
    "log-taps-of-fractions": lambda: taps(["logarithmic", [7, 2, 0.5, 1], [PLACE]]),
    "quantizer-with-a-table": lambda: taps(["uniform", {"bits": 8}, [PLACE]]),
    "quantizer-of-nothing": lambda: quantizer(),
    "quantizer-too-long": lambda: quantizer(8, 0, 1.0, 0),
    "quantizer-of-0-bits": lambda: quantizer(0, 0, 1.0),
    "quantizer-of-9-bits": lambda: quantizer(9, 0, 1.0),
    "quantizer-of-huge-bits": lambda: quantizer(10**1500, 0, 1.0),
    "quantizer-of-true-bits": lambda: quantizer(True, 0, 1.0),
    "quantizer-from-false": lambda: quantizer(8, False, 1.0),
    "quantizer-from-above-zero": lambda: quantizer(8, 1, 1.0),
    "quantizer-from-too-low": lambda: quantizer(8, -256, 1.0),
    "scale-nan": lambda: quantizer(8, 0, float("nan")),
    "scale-infinite": lambda: quantizer(8, 0, float("inf")),
    "scale-negative": lambda: quantizer(8, 0, -1.0),
    "scale-zero": lambda: quantizer(8, 0, 0.0),
    "scale-overflowing": lambda: quantizer(8, 0, 1e39),
    "scale-underflowing": lambda: quantizer(8, 0, 1e-46),
    "scale-an-integer": lambda: quantizer(8, 0, 10**1500),
    "scale-a-truth": lambda: quantizer(8, 0, True),
    "scale-a-text": lambda: quantizer(8, 0, "1.0"),
    "fold-a-list": lambda: fold(["layer", "norm"]),
    "fold-a-list-of-pairs": lambda: fold([["layer", "norm"]]),
    "fold-a-text": lambda: fold("layer"),
    "fold-into-a-number": lambda: fold({"layer": 3}),
    "fold-into-a-list": lambda: fold({"layer": ["norm"]}),
    "fold-of-no-layer": lambda: fold({"nowhere": "norm"}),
    "fold-of-no-norm": lambda: fold({"layer": "nowhere"}),
    "fold-of-the-model": lambda: fold({"": "norm"}),
    "fold-of-a-norm": lambda: fold({"norm": "norm"}),
    "fold-of-a-norm-without-statistics": lambda: fold({"layer": "bare"}),
    "fold-of-another-size": lambda: fold({"layer": "wide"}),
    "fold-of-one-norm-into-two-layers": lambda: fold({"layer": "norm", "other": "norm"}),
    "fold-twice": lambda: fold({"layer": "norm"}, {"layer": "norm"}),
}


def main() -> None:
    FILES.mkdir(exist_ok=True)
    for name, build in ATTACKS.items():
        path = FILES / f"{name}.fwt"
        if not path.exists():
            path.write_bytes(build())


if __name__ == "__main__":
    main()

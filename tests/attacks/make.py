"""Writes the hostile files that are kept in ``files/``: ``python tests/attacks/make.py``.

Each is whole and has the right checksum; the name says what it attacks. Add a builder here and run this; files that
exist already are left as they are, so that an attack of today's format is kept when the format grows.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.coding import Encoder, Writer, seal

FILES = Path(__file__).parent / "files"
FLOATS, EXACT, SPARSE, UNIFORM, CODEBOOK, LOW_RANK = range(6)

Tree = tuple[int, tuple[int, ...], tuple[Any, ...]]
"""A layout: kind, settings, parts."""

LEAF: Tree = (FLOATS, (0,), ())
HALF: Tree = (FLOATS, (1,), ())


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
    "uniform-of-64-bits": lambda: one([2], (UNIFORM, (64, 1, 0), (LEAF,)), ([0, 0], 2)),
    "uniform-group-across-rows": lambda: one(
        [2, 3], (UNIFORM, (2, 1, 2, 6), (LEAF,)), (np.zeros((2, 3), int), 3), ([0], 2**32)
    ),
    "uniform-group-of-none": lambda: one([2], (UNIFORM, (2, 1, 2, 0), (LEAF,)), ([0, 0], 3)),
    "uniform-channel-beyond": lambda: one([2], (UNIFORM, (2, 1, 1, 7), (LEAF,)), ([0, 0], 3)),
    "uniform-of-nothing-by-channel": lambda: one([0, 3], (UNIFORM, (2, 1, 1, 0), (LEAF,))),
    "uniform-of-no-rows-by-group": lambda: one([0, 4], (UNIFORM, (2, 1, 2, 2), (LEAF,))),
    "codebook-of-none": lambda: one([2], (CODEBOOK, (0,), (LEAF,))),
    "codebook-huge": lambda: one([2], (CODEBOOK, (2**40,), (LEAF,))),
    "codebook-larger-than-its-tensor": lambda: one(
        [1], (CODEBOOK, (4096,), (HALF,)), (np.zeros(4096, int), 2**16), ([4095], 4096)
    ),
    "low-rank-of-a-vector": lambda: one([6], (LOW_RANK, (1,), (LEAF, LEAF))),
    "low-rank-of-none": lambda: one([2, 3], (LOW_RANK, (0,), (LEAF, LEAF))),
    "low-rank-too-high": lambda: one([2, 3], (LOW_RANK, (3,), (LEAF, LEAF))),
    "low-rank-of-one-factor": lambda: one([2, 3], (LOW_RANK, (1,), (LEAF,))),
    "low-rank-of-nothing": lambda: one([0, 3], (LOW_RANK, (1,), (LEAF, LEAF))),
}


def main() -> None:
    FILES.mkdir(exist_ok=True)
    for name, build in ATTACKS.items():
        path = FILES / f"{name}.fwt"
        if not path.exists():
            path.write_bytes(build())


if __name__ == "__main__":
    main()

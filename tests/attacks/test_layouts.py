"""Law 7 behind the entropy coder: any layout with any symbols is refused, or decodes to the declared shape and type."""

import random

import pytest
import torch
from torch import Tensor

from featherweight import file
from featherweight.core.code import Code, Layout
from featherweight.core.errors import FormatError
from featherweight.core.shared import Reference, resolved

from .victim import whole

SHAPES = ((), (0,), (1,), (6,), (0, 3), (3, 0), (4, 6), (2, 3, 4), (1, 1), (2, 0, 2), (5, 1, 2, 2))
NUMBERS = (0, 1, 1, 2, 2, 3, 4, 5, 6, 8, 9, 24, 300, 4096, 4097, 2**20, 2**40)
COUNT = 15_000


def layout(dice: random.Random, depth: int = 0) -> Layout:
    kind = dice.choice(list(file.KINDS.values()))
    settings = tuple(dice.choice(NUMBERS) for _ in range(dice.choice((0, 1, 1, 2, 3, 4, 4))))
    parts = tuple(layout(dice, depth + 1) for _ in range(dice.choice((0, 0, 1, 1, 2)) if depth < 3 else 0))
    return Layout(kind, settings, parts)


def likely(dice: random.Random, shape: tuple[int, ...], depth: int = 0) -> Layout:
    """A layout that could have been written, but for a detail: it gets further than a random one."""
    leaf = Layout(file.Floats, (dice.randrange(4),))
    inner = likely(dice, (4,), depth + 1) if depth < 3 else leaf
    if dice.random() < 0.1:
        inner = Layout(Reference, (dice.randrange(3),))
    made = dice.choice((
        leaf,
        Layout(file.SparseCode, (), (inner,)),
        Layout(file.BoxSparseCode, (0, *dice.choices(range(4), k=len(shape))), (inner,)),
        Layout(file.BoxSparseCode, (1, *dice.choices(range(4), k=2)), (inner,)),
        Layout(file.RunSparseCode, (dice.randrange(1, 3), dice.randrange(2, 5), dice.randrange(2)), (inner,)),
        Layout(file.UniformCode, (dice.randrange(1, 9), dice.randrange(2), 0), (inner,)),
        Layout(file.UniformCode, (dice.randrange(1, 9), dice.randrange(2), 1, dice.randrange(3)), (inner,)),
        Layout(file.UniformCode, (dice.randrange(1, 9), dice.randrange(2), 2, dice.randrange(1, 9)), (inner,)),
        Layout(file.CodebookCode, (dice.randrange(1, 9),), (inner,)),
        Layout(file.LogCode, (dice.randrange(1, 129), dice.randrange(1, 3), dice.randrange(2), 0), (inner,)),
        Layout(file.LogCode, (dice.randrange(1, 9), dice.randrange(1, 3), dice.randrange(2), 1, dice.randrange(3))),
        Layout(file.TernaryCode, (2, dice.randrange(1, 9)), (inner, inner)),
        Layout(file.TableCode, (dice.randrange(2), 0), (inner,)),
        Layout(file.LowRankCode, (dice.randrange(1, 5),), (inner, inner)),
        Layout(file.SplitCode, (), (inner, leaf)),
        Layout(file.FixedPointCode, (dice.randrange(1, 25), dice.randrange(64))),
        Layout(file.ProductCode, (*dice.choices(range(1, 5), k=2), dice.randrange(3), dice.randrange(2)), (inner,)),
        Layout(file.MixtureCode, (dice.randrange(1, 9), 10**6 - dice.randrange(3)), (leaf, leaf, leaf)),
    ))  # fmt: skip
    return made if dice.random() < 0.9 else Layout(made.kind, made.settings, (*made.parts, leaf)[: dice.randrange(3)])


def read(tree: Layout, shape: tuple[int, ...], dtype: torch.dtype, dice: random.Random) -> Code:
    """What a reader makes of the layout, with random symbols; their number is bounded."""
    taken = 0

    def take(name: str, shape: tuple[int, ...], alphabet: int) -> Tensor:
        nonlocal taken
        assert all(size >= 0 for size in shape) and alphabet >= 1
        taken += torch.Size(shape).numel()
        assert taken <= 200 * 24, f"{tree} asks for {taken} numbers"
        generator = torch.Generator().manual_seed(dice.randrange(2**31))
        values = torch.randint(0, dice.choice((1, 2, alphabet)), shape, generator=generator) % alphabet
        return values.to(torch.uint8) if alphabet <= 256 else values

    return tree.kind.from_streams(tree, shape, dtype, take)


@pytest.mark.parametrize("make", [lambda dice, shape: layout(dice), likely], ids=["random", "likely"])
def test_any_layout(make) -> None:
    dice = random.Random(2)
    accepted = 0
    for _ in range(COUNT):
        shape, dtype = dice.choice(SHAPES), dice.choice(list(file.DTYPES.values()))
        tree = make(dice, shape)
        try:
            code = resolved({"read": read(tree, shape, dtype, dice)})["read"]
        except FormatError:
            continue
        assert whole(code.decode(), shape, dtype), tree
        accepted += 1
    assert accepted > COUNT / 500  # the more kinds there are, the fewer random layouts fit theirs

"""Law 6: any two families, in either order, one after the other or one inside the other, save, load and run."""

from dataclasses import replace
from itertools import cycle, permutations

import pytest
import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.core.compressed import Compressed
from featherweight.core.errors import NoEffectError, SchemeError
from featherweight.core.stage import Learn, Recipe, Training, everywhere
from featherweight.core.task import Example, Task
from featherweight.run import run
from featherweight.schemes.floats import Float, Width
from featherweight.schemes.lowrank import LowRank, Rank
from featherweight.schemes.sparse import Fraction, Sparse

from .table import FAMILIES, TABLE, WEIGHTS
from .test_files import same

INPUTS = torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(64, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.conv(images)).relu()
        logits: Tensor = self.head(maps.flatten(1))
        return logits


def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


def task() -> Task:
    labels = torch.arange(8) % 4
    return Task(
        name="pairs",
        architecture=Net,
        model=net,
        example=lambda: Example((INPUTS[:1],)),
        train=lambda: [(INPUTS[:4], labels[:4]), (INPUTS[4:], labels[4:])],
        loss=lambda outputs, batch: nn.functional.cross_entropy(outputs, batch[1]),
    )


def check(student: Compressed) -> None:
    """The file's model, the working model and the finished model give the same outputs to the last bit."""
    data = file.encode(student)
    loaded, _ = file.load(data, Net())
    with torch.no_grad():
        outputs = student(INPUTS)
        assert same(loaded(INPUTS), outputs)
        assert same(student.finished()(INPUTS), outputs)
    assert file.encode(loaded) == data


PAIRS = list(permutations(FAMILIES, 2))
LEARNED = [(*pair, mode) for pair, mode in zip(PAIRS, cycle(Learn), strict=False)]
"""Every pair with one of the ways to learn."""


@pytest.mark.parametrize("first, second, learn", [*((*pair, None) for pair in PAIRS), *LEARNED])
def test_one_after_the_other(first: str, second: str, learn: Learn | None) -> None:
    stages = tuple(
        everywhere(name, TABLE[name].scheme, learn=learn or Learn.DIRECT, training=Training(1, 1e-2) if learn else None)
        for name in (first, second)
    )
    student, coverage = run(net(), task(), Recipe(f"{first}, {second}", stages))
    assert [stage.touched.keys() for stage in coverage] == [{"conv.weight", "head.weight"}] * 2
    kinds = {type(code) for code in student.codes.values()}
    assert kinds == {type(TABLE[second].scheme.project(WEIGHTS["normal"]))}
    check(student)


@pytest.mark.parametrize("outer", [Sparse(Fraction(0.5)), LowRank(Rank(2))], ids=["sparse", "low rank"])
@pytest.mark.parametrize("inner", [name for name in FAMILIES if TABLE[name].takes(torch.zeros(5))])
@pytest.mark.parametrize("deep", [False, True])
def test_one_inside_the_other(outer: Sparse | LowRank, inner: str, deep: bool) -> None:
    scheme = TABLE[inner].scheme
    nested = outer.then(Sparse(Fraction(0.3)).then(scheme) if deep else scheme)
    student, _ = run(net(), task(), Recipe("nested", (everywhere("nested", nested),)))
    check(student)


def test_survivors_are_no_matrix() -> None:
    with pytest.raises(SchemeError, match="conv.weight: .*no matrix"):
        run(net(), task(), Recipe("nested", (everywhere("nested", Sparse(Fraction(0.5)).then(LowRank(Rank(1)))),)))


def test_the_same_twice_has_no_effect_the_second_time() -> None:
    twice = replace(everywhere("once", Float(Width.FLOAT16)), name="twice")
    with pytest.raises(NoEffectError, match="'twice'"):
        run(net(), task(), Recipe("twice", (everywhere("once", Float(Width.FLOAT16)), twice)))

"""Activations of a running model: shown, replaced, and left alone again."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from featherweight.core.compressed import Compressed
from featherweight.core.stage import Learn
from featherweight.core.tap import Call, Operator, Place, StoredFunction, TapSite, watching
from featherweight.schemes.codebook import Codebook

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Affine(StoredFunction):
    """``a x + 1``, with a number that learns."""

    identifier = "affine of a test"

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x + 1

    def to_json(self) -> list:
        return [self.factor.item()]

    @classmethod
    def from_json(cls, record: list) -> "Affine":
        return cls(*record)


class Joins(nn.Module):
    """Every join, with operands that differ."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.error: type[BaseException] | None = None

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.layer(x), x
        if self.error is not None:
            raise self.error("broken")
        total = a + b
        total = total * b
        parts = torch.cat([total, b], 1)
        return parts @ parts.T.contiguous()


def joins() -> Joins:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Joins().eval()


def place(operator: Operator, operand: int | None, module: str = "") -> Place:
    return Place(Call(module, operator), operand)


def by_hand(model: Joins, at: Place, f: StoredFunction) -> Tensor:
    """What the model computes with ``f`` at one place."""

    def sent(operator: Operator, operand: int | None, x: Tensor, module: str = "") -> Tensor:
        return f(x) if at == place(operator, operand, module) else x

    a = sent(Operator.LINEAR, None, model.layer(sent(Operator.LINEAR, 0, X, "layer")), "layer")
    total = sent(Operator.ADD, None, sent(Operator.ADD, 0, a) + sent(Operator.ADD, 1, X))
    total = sent(Operator.MULTIPLY, None, sent(Operator.MULTIPLY, 0, total) * sent(Operator.MULTIPLY, 1, X))
    parts = torch.cat([sent(Operator.CAT, 0, total), sent(Operator.CAT, 1, X)], 1)
    parts = sent(Operator.CAT, None, parts)
    return sent(Operator.MATMUL, None, sent(Operator.MATMUL, 0, parts) @ sent(Operator.MATMUL, 1, parts.T))


JOINED = (Operator.ADD, Operator.MULTIPLY, Operator.CAT, Operator.MATMUL)
PLACES = [
    *(place(operator, operand) for operator in JOINED for operand in (0, 1, None)),
    place(Operator.LINEAR, 0, "layer"),
    place(Operator.LINEAR, None, "layer"),
]


@pytest.mark.parametrize("at", PLACES, ids=str)
def test_a_function_acts_on_its_place_alone(at: Place) -> None:
    model, f = joins(), Affine(0.5)
    student = Compressed(model)
    student.tap([TapSite(at, f)])
    torch.testing.assert_close(student(X), by_hand(model, at, f))
    assert not torch.allclose(student(X), model(X))
    exported = torch.export.export(student, (X,), strict=False).module()
    assert torch.equal(exported(X), student(X))


def test_a_run_shows_each_place_once_in_order() -> None:
    shown: list[Place] = []

    def note(at: Place, x: Tensor) -> Tensor:
        shown.append(at)
        return x

    model = joins()
    expected = model(X)
    with watching(model, note):
        assert torch.equal(model(X), expected)
    assert set(shown) == set(PLACES) and len(shown) == len(PLACES)
    first, second = list(shown), []
    with watching(model, lambda at, x: (second.append(at), x)[1], PLACES[:3]):
        model(X)
    assert second == [at for at in first if at in PLACES[:3]]


def test_watching_leaves_nothing_behind() -> None:
    model = joins()
    with watching(model, lambda at, x: x * 0):
        assert not bool(model(X).any())
    assert bool(model(X).any())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("learning", [False, True])
def test_a_run_that_breaks_off_leaves_no_mode_behind(error: type[BaseException], learning: bool) -> None:
    student = Compressed(joins())
    student.tap([TapSite(PLACES[0], Affine(0.5)), TapSite(PLACES[-1], Affine(2.0))])
    if learning:
        code = Codebook(4).project(student.parameter("layer.weight").detach())
        student.encode({"layer.weight": code}, {"layer.weight": Codebook(4)})
        student.learn({"layer.weight": Learn.DIRECT})
    expected = student(X)
    for _ in range(2):
        student.base.error = error
        with pytest.raises(error, match="broken"):
            student(X)
        assert _get_current_function_mode_stack() == []
        student.base.error = None
        assert torch.equal(student(X), expected)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_watching_that_breaks_off_leaves_no_mode_behind(error: type[BaseException]) -> None:
    model = joins()
    model.error = error
    with pytest.raises(error, match="broken"), watching(model, lambda at, x: x):
        model(X)
    assert _get_current_function_mode_stack() == []


def test_an_error_in_a_function_and_one_that_the_model_catches() -> None:
    class Catching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.other = nn.Linear(5, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.layer(x)
            except RuntimeError:
                return self.other(x)

    class Broken(Affine):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("no function")

    student = Compressed(Catching())
    student.tap([TapSite(place(Operator.LINEAR, 0, "other"), Affine(0.5))])
    assert torch.equal(student(X), student.base.other(0.5 * X + 1))
    student.tap([TapSite(place(Operator.LINEAR, 0, "other"), Broken(1.0))])
    with pytest.raises(ValueError, match="no function"):
        student(X)
    assert _get_current_function_mode_stack() == []
    student.tap([TapSite(place(Operator.LINEAR, 0, "other"), Affine(1.0))])
    assert torch.equal(student(X), student.base.other(X + 1))


def test_a_copy_is_independent() -> None:
    student = Compressed(joins())
    student.tap([TapSite(at, f) for f in (Affine(0.5),) for at in PLACES[:2]])
    other, before = copy.deepcopy(student), student(X)
    assert torch.equal(other(X), before) and other.sites.keys() == student.sites.keys()
    assert len(set(other.sites.values())) == 1 and not set(other.sites.values()) & set(student.sites.values())
    with torch.no_grad():
        next(iter(other.taps.parameters())).fill_(3)
    assert torch.equal(student(X), before) and not torch.equal(other(X), before)
    other.tap([TapSite(PLACES[2], Affine(0.1))])
    assert torch.equal(student(X), before) and len(student.sites) == 2
    finished = student.finished()
    assert type(finished) is Joins and torch.equal(finished(X), before)


def test_a_submodule_by_itself_is_not_seen() -> None:
    student = Compressed(joins())
    student.tap([TapSite(place(Operator.LINEAR, 0, "layer"), Affine(0.0))])
    assert torch.equal(student.base.layer(X), joins().layer(X))


def test_a_model_that_calls_itself() -> None:
    """The counts go on."""

    class Again(nn.Module):
        def forward(self, x: Tensor, deep: int = 2) -> Tensor:
            return self(x + x, deep - 1) if deep else x

    shown: list[str] = []
    with watching(Again(), lambda at, x: x):
        pass
    model = Again()
    with watching(model, lambda at, x: (shown.append(str(at)), x)[1]):
        assert torch.equal(model(X), 4 * X)
    assert [each for each in shown if "result" in each] == ["the model: add, result", "the model: add 2, result"]


def test_what_is_sent_learns() -> None:
    student = Compressed(joins())
    student.tap([TapSite(PLACES[0], Affine(0.5))])
    (fields, _) = student.learnable()
    assert fields == list(student.taps.parameters())
    student(X).sum().backward()
    assert fields[0].grad is not None and float(fields[0].grad) != 0


def test_integers_and_numbers_are_no_operands() -> None:
    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            n = torch.arange(3) + torch.arange(3)
            return x + 1 + torch.tensor(2.0) + n[:, None]

    shown = []
    model = Counting()
    with watching(model, lambda at, x: (shown.append(at), x)[1]):
        model(X)
    assert shown == []

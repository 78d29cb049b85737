"""Runs that begin behind compressed blocks: the same codes, in a number of runs that is linear in the depth."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.metric import Metric
from featherweight.core.site import WEIGHTS, select
from featherweight.core.stage import MetricRule
from featherweight.core.task import Example, Quality, Task
from featherweight.metrics import prefix
from featherweight.metrics.hessian import InputMoment, InputNorm, Kronecker
from featherweight.run import solve
from featherweight.schemes.uniform import PerChannel, Uniform
from featherweight.solvers.sweep import ColumnSweep

SQUARED = Quality("error", "", False, lambda outputs, batch: outputs.square().sum(-1).mean(-1))
SCHEME = Uniform(3, granularity=PerChannel())


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.gate, self.up, self.down = nn.Linear(width, 12), nn.Linear(width, 12), nn.Linear(12, width)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        mixed = F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x), mask)
        x = x + self.out(mixed)
        return x + self.down(F.silu(self.gate(x)) * self.up(x)), None


class Language(nn.Module):
    """Blocks that give tuples, a mask that is made once, and a head that is tied to the table."""

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(Attention(8) for _ in range(depth))
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x, mask = self.table(tokens), torch.ones(tokens.shape[1], tokens.shape[1]).tril().log()
        for block in self.blocks:
            x, _ = block(x, mask)
        y: Tensor = self.head(x)
        return y


class Residual(nn.Module):
    """Writes into what it is given, as rectifiers in place do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.relu(x, inplace=True)
        return y + self.second(F.relu(self.first(y)))


class Images(nn.Module):
    """What is between blocks writes into what they give."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3)
        self.blocks = nn.Sequential(*(Residual() for _ in range(3)))
        self.between = nn.Conv2d(4, 4, 1)
        self.more = nn.Sequential(*(Residual() for _ in range(2)))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        x += 1.0
        x = self.more(self.between(x))
        y: Tensor = self.head(x.mean((2, 3)))
        return y


class Ladder(nn.Module):
    """The last block is given what the first gave, too: no chain."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Attention(8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros(x.shape[1], x.shape[1])
        first, _ = self.blocks[0](x, mask)
        second, _ = self.blocks[1](first, mask)
        third, _ = self.blocks[2](second, mask)
        y: Tensor = self.blocks[3](third + first, mask)[0]
        return y


class Twice(nn.Module):
    """A block that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Attention(8) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros(x.shape[1], x.shape[1])
        for block in (self.blocks[0], self.blocks[1], self.blocks[0]):
            x, _ = block(x, mask)
        return x


TOKENS = torch.randint(11, (6, 5), generator=torch.Generator().manual_seed(0))
PICTURES = torch.randn(6, 2, 7, 7, generator=torch.Generator().manual_seed(1))
STATES = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(2))
CASES = [(Language, TOKENS), (Images, PICTURES), (Ladder, STATES), (Twice, STATES)]
IDS = ["language", "images", "ladder", "twice"]


def task(model: nn.Module, inputs: Tensor) -> Task:
    halves = [inputs[:2], inputs[2:]]
    return Task(
        "t", lambda: model, lambda: model, lambda: Example((inputs,)), calibration=lambda: halves, quality=SQUARED
    )


@dataclass(frozen=True)
class FromTheStart(MetricRule):
    """Every layer by itself, in runs from the start."""

    rule: MetricRule

    def measure(self, student: Compressed, names: Sequence[str], task: Task) -> dict[str, object]:  # type: ignore[override]
        return dict(self.rule.measure(student, names, task))


def compressed(model: nn.Module, inputs: Tensor, rule: MetricRule, names: Sequence[str] = ()) -> Mapping[str, Tensor]:
    student = Compressed(model).eval()
    sites = names or list(select(model, WEIGHTS))
    solve(student, task(model, inputs), rule, ColumnSweep(required=False), dict.fromkeys(sites, SCHEME))
    return {name: code.decode() for name, code in student.codes.items()}


def equal_weights(one: Metric, other: Metric, w: Tensor) -> bool:
    ours, theirs = one.weights(w), other.weights(w)
    return ours is not None and theirs is not None and torch.equal(ours, theirs)


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("kind", "inputs"), CASES, ids=IDS)
def test_the_codes_are_those_of_runs_from_the_start(kind: type[nn.Module], inputs: Tensor) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    rule = InputMoment(required=False)
    assert equal(compressed(model, inputs, rule), compressed(model, inputs, FromTheStart(rule)))


def test_the_codes_are_the_same_in_any_order_of_names() -> None:
    torch.manual_seed(0)
    model, rule = Language().eval(), InputMoment(required=False)
    names = list(select(model, WEIGHTS))
    for order in (names[::-1], names[1::2] + names[::2]):
        assert equal(compressed(model, TOKENS, rule, order), compressed(model, TOKENS, FromTheStart(rule), order))


def test_curvatures_are_measured_behind_blocks_too() -> None:
    torch.manual_seed(0)
    model, rule = Language().eval(), Kronecker(required=False)
    student = Compressed(model).eval()
    names = list(select(model, WEIGHTS))
    begun = rule.begun(student, names, task(model, TOKENS))
    assert begun.moments is not None and begun.moments.prefix is not None and len(begun.moments.prefix.blocks) == 4
    with_rows = compressed(model, TOKENS, rule)
    assert not equal(with_rows, compressed(model, TOKENS, InputMoment(required=False)))


def test_layers_of_one_input_are_measured_together_and_share_the_moment() -> None:
    model = Language(2).eval()
    names = list(select(model, WEIGHTS))
    student, asked = Compressed(model).eval(), task(model, TOKENS)
    rule = InputMoment(required=False).begun(student, names, asked)
    short = [[name.removeprefix("blocks.0.").removesuffix(".weight") for name in part] for part in rule.together(names)]
    assert short[:5] == [["table"], ["query", "key", "value"], ["out"], ["gate", "up"], ["down"]]
    part = rule.together(names)[1]
    found = rule.measure(student, part, asked)
    alone = InputMoment().measure(student, [part[2]], asked)
    assert found[part[0]] is found[part[2]]
    assert equal_weights(found[part[0]], alone[part[2]], model.blocks[0].query.weight)


def runs(depth: int, rule: MetricRule) -> int:
    """How often blocks ran, in all."""
    model, counts = Language(depth).eval(), Counter[str]()
    student = Compressed(model).eval()
    for block in student.base.blocks:  # type: ignore[union-attr]
        forward = block.forward

        def counted(*args: Tensor, forward: object = forward) -> object:
            counts["runs"] += 1
            return forward(*args)  # type: ignore[operator]

        block.forward = counted
    names = list(select(model, WEIGHTS))
    solve(student, task(model, TOKENS), rule, ColumnSweep(required=False), dict.fromkeys(names, SCHEME))
    return counts["runs"]


def test_blocks_run_in_proportion_to_the_depth() -> None:
    few, more, most = (runs(depth, InputMoment(required=False)) for depth in (2, 4, 6))
    assert most - more == more - few
    few, more, most = (runs(depth, FromTheStart(InputMoment(required=False))) for depth in (2, 4, 6))
    assert most - more > 1.4 * (more - few)


def test_what_blocks_give_may_lie_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, rule = Language().eval(), InputMoment(required=False)
    whole = compressed(model, TOKENS, rule)
    monkeypatch.setattr(prefix, "SPILL", 400)
    assert equal(compressed(model, TOKENS, rule), whole)


def test_norms_of_inputs_too() -> None:
    model = Language().eval()
    names = [name for name in select(model, WEIGHTS) if name != "table.weight"]
    student, asked = Compressed(model).eval(), task(model, TOKENS)
    rule = InputNorm().begun(student, names, asked)
    for part in rule.together(names):
        for name, metric in rule.measure(student, part, asked).items():
            w = student.weight(name).detach()
            assert equal_weights(metric, InputNorm().measure(student, [name], asked)[name], w)


def test_batches_that_come_in_another_order_every_time_are_drawn_once() -> None:
    torch.manual_seed(0)
    model = Language().eval()

    def shuffled() -> list[Tensor]:
        return [TOKENS[torch.randperm(6)][:3]]

    asked = Task("t", lambda: model, lambda: model, lambda: Example((TOKENS,)), calibration=shuffled, quality=SQUARED)
    student, names = Compressed(model).eval(), list(select(model, WEIGHTS))
    rule = InputMoment(required=False).begun(student, names, asked)
    first, second = (rule.measure(student, names[1:2], asked)[names[1]] for _ in range(2))
    assert equal_weights(first, second, model.blocks[0].query.weight)

"""Runtime pruning: gates against loops, Q-learning against its targets, and agents that learn what a sample needs."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.activations.agents import ActionValues, Agents, Deciding, average_macs, losses
from featherweight.activations.runtime import RuntimeGate, prefixed
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError, SchemeError, SelectionError
from featherweight.core.stage import Objective, Recipe, Stage, Tap, Training
from featherweight.core.tap import Call, Operator, Place, TapSite
from featherweight.core.task import Example, Task
from featherweight.costs.operations import operations
from featherweight.engines import ENGINES
from featherweight.engines.engine import Settings
from featherweight.engines.integers import deployed
from featherweight.run import run

CALL = Call("conv", Operator.CONVOLVE)


class Reading(nn.Module):
    """Reads the answer of an easy sample from channel 0, that of a hard one from channel 3; channel 1 says which."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 2, 1)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.bias.zero_()
            self.conv.weight[0, 0] = self.conv.weight[0, 3] = 3.0
            self.conv.weight[1, 0] = self.conv.weight[1, 3] = -3.0

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3))


HARD = torch.arange(64) % 2 == 1
Y = torch.arange(64) // 2 % 2
X = torch.zeros(64, 4, 3, 3)
X[:, 0] = torch.where(HARD, 0.0, 1.0 - 2.0 * Y)[:, None, None]
X[:, 3] = torch.where(HARD, 1.0 - 2.0 * Y, 0.0)[:, None, None]
X[:, 1] = HARD.float()[:, None, None]


def cross_entropy(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(outputs, batch[1])


def task() -> Task:
    return Task(
        "reading", Reading, Reading, lambda: Example((X[:2],)), train=lambda: [(X, Y)], calibration=lambda: [(X, Y)],
        loss=cross_entropy,
    )  # fmt: skip


def learned(price: float) -> Compressed:
    stage = Stage(
        "agents",
        tap=Agents(("conv",), 4, explore=0.5),
        training=Training(300, 0.1),
        objective=Objective((ActionValues(price=price),)),
        train_rest=False,
    )
    return run(Reading(), task(), Recipe("agents", (stage,)))[0]


@pytest.fixture(scope="module")
def decided() -> Iterator[Compressed]:
    yield learned(0.3)


@pytest.mark.parametrize("shape", [(5, 6, 3), (5, 7, 2, 3), (5, 3, 2, 2, 2)])
def test_a_gate_lets_the_first_channels_pass(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, values = (torch.randn(s, generator=generator) for s in (shape, (4, shape[1])))
    bias = torch.randn(4, generator=generator)
    y = RuntimeGate(values, bias)(x)
    for sample, found in zip(x, y, strict=True):
        q = [float(values[a] @ sample.flatten(1).mean(1) + bias[a]) for a in range(4)]
        kept = -(-(q.index(max(q)) + 1) * shape[1] // 4)
        assert torch.equal(found[:kept], sample[:kept]) and not found[kept:].any()
    assert torch.equal(prefixed(x, torch.full((5,), 3), 4), x)


def test_what_is_learned_is_the_loss_and_what_was_paid() -> None:
    """Two agents, one after the other: each is drawn to what the next one expects, less its own price."""
    agents = [Deciding(4, 2, 0.25), Deciding(4, 2, 0.75)]
    student = Compressed(Reading())
    student.tap([TapSite(Place(CALL, operand), agent) for operand, agent in zip((0, None), agents, strict=True)])
    for seed, agent in enumerate(agents):
        agent.seen = torch.randn(3, 2, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    agents[0].taken, agents[1].taken = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 1])
    outputs = torch.randn(3, 2, generator=torch.Generator().manual_seed(7)).requires_grad_()
    tap = Tap(outputs, (X[:3], Y[:3]), None, student, cross_entropy)
    torch.testing.assert_close(losses(tap), nn.functional.cross_entropy(outputs, Y[:3], reduction="none").detach())
    total, seen = 0.0, [agent.seen.detach() for agent in agents]
    for n in range(3):
        last = -float(losses(tap)[n]) - 0.4 * 0.75 * (int(agents[1].taken[n]) + 1) / 2
        total += (float(seen[1][n, agents[1].taken[n]]) - last) ** 2 / 3
        first = float(seen[1][n].max()) - 0.4 * 0.25 * (int(agents[0].taken[n]) + 1) / 2
        total += (float(seen[0][n, agents[0].taken[n]]) - first) ** 2 / 3
    found = ActionValues(price=0.4)(tap)
    assert float(found.detach()) == pytest.approx(total, rel=1e-5)
    found.backward()
    assert outputs.grad is None and all(agent.seen.grad is not None for agent in agents)


def test_agents_give_a_sample_what_it_needs(decided: Compressed) -> None:
    (gate,) = decided.sites.values()
    assert isinstance(gate, RuntimeGate)
    passed = gate(torch.ones_like(X) * 0 + X + 1e-6).ne(0).flatten(2).any(2).sum(1)
    assert passed[~HARD].tolist() == [1] * 32 and passed[HARD].tolist() == [4] * 32
    assert bool((decided(X).argmax(1) == Y).all())


def test_what_is_computed_on_average_is_counted(decided: Compressed) -> None:
    example, layer, agent = Example((X[:2],)), 9 * 4 * 2, 4 * 4
    assert operations(decided.base, example).macs_dense == layer + agent
    assert average_macs(decided, [(X, Y)], example) == pytest.approx(layer * (1 + 4) / 2 / 4 + agent)
    assert average_macs(decided, [(X[HARD], Y[HARD])], example) == pytest.approx(layer + agent)
    dear = learned(10.0)
    assert average_macs(dear, [(X, Y)], example) == pytest.approx(layer / 4 + agent)
    with pytest.raises(SelectionError, match="has settled"):
        average_macs(Compressed(Reading()), [(X, Y)], example)


def test_the_network_itself_stays_while_agents_learn(decided: Compressed) -> None:
    for name, parameter in Reading().named_parameters():
        assert torch.equal(decided.parameter(name), parameter)


def test_files_and_engines_have_the_agents(decided: Compressed, tmp_path: Path) -> None:
    loaded, contents = file.load(file.encode(decided), Reading())
    assert torch.equal(loaded(X), decided(X)) and len(contents.header.taps) == 1
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    engine, path = ENGINES["onnxruntime"], tmp_path / "agents.onnx"
    engine.export(deployed(decided), Example((X[:2],)), path)
    (output,) = engine.open(path, Settings()).run([X.numpy()])
    torch.testing.assert_close(torch.from_numpy(output), decided(X), rtol=1e-4, atol=1e-5)


def test_agents_go_on_from_those_that_are_there(decided: Compressed) -> None:
    (site,) = Agents(("conv",), 4).taps(decided, task())
    (gate,) = decided.sites.values()
    assert isinstance(site.function, Deciding) and isinstance(gate, RuntimeGate)
    assert torch.equal(site.function.values, gate.values) and site.function.cost == 1
    (fresh,) = Agents(("conv",), 3).taps(decided, task())
    assert isinstance(fresh.function, Deciding) and not fresh.function.values.any()
    copied = copy.deepcopy(decided)
    assert torch.equal(copied(X), decided(X))


def test_bad_input() -> None:
    student = Compressed(Reading())
    with pytest.raises(SchemeError, match="2 or more"):
        Agents(("conv",), 1)
    with pytest.raises(SelectionError, match="no module that matches"):
        Agents(("nothing",)).taps(student, task())
    with pytest.raises(SelectionError, match="through an agent that learns"):
        ActionValues()(Tap(X, (X, Y), None, student, cross_entropy))
    with pytest.raises(SelectionError, match="was shown an activation"):
        RuntimeGate(torch.zeros(2, 3), torch.zeros(2))(X)
    nan, rows = float("nan"), [[0.0, 1.0], [2.0, 3.0]]
    for record in ([], [[], []], [[[]], [0.0]], [rows, [0.0]], [[*rows, [0.0]], [0.0] * 3], [rows, [0.0, nan]],
                   [rows, [0, 1]], [[[1e39]], [0.0]], [rows, [0.0, 0.0], 1]):  # fmt: skip
        with pytest.raises(FormatError):
            RuntimeGate.from_json(record)
    with pytest.raises(FormatError):
        Deciding.from_json([4, 2, 1, 0])

"""Agents of runtime pruning: how they learn what to decide, and what their decisions would save."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from featherweight.activations.gates import weight_of
from featherweight.activations.rules import inputs
from featherweight.activations.runtime import RuntimeGate, action_values, prefixed
from featherweight.core.compressed import Compressed
from featherweight.core.errors import FormatError, SchemeError, SelectionError
from featherweight.core.hooks import hooked
from featherweight.core.stage import Tap, TapRule, Term
from featherweight.core.tap import Function, TapSite
from featherweight.core.task import Example, Task, call, evaluating, moved
from featherweight.costs.operations import operations, uses


class Deciding(Function):
    """A :class:`RuntimeGate` whose agent learns: a random choice with probability ``explore``, else the agent's own.

    ``cost`` is what the layer that reads the map costs, as a share of all that have agents. What was chosen last, and
    all values then, are kept for :class:`ActionValues`.
    """

    identifier = "deciding"
    taken: Tensor
    seen: Tensor

    def __init__(self, channels: int, choices: int, cost: float = 1.0, explore: float = 0.0) -> None:
        super().__init__()
        self.cost, self.explore = cost, explore
        self.values = nn.Parameter(torch.zeros(choices, channels))
        self.bias = nn.Parameter(torch.zeros(choices))

    def forward(self, x: Tensor) -> Tensor:
        found = action_values(x.detach(), self.values, self.bias)
        chosen = found.argmax(1)
        if self.training:
            drawn = torch.randint(len(self.bias), chosen.shape, device=x.device)
            chosen = torch.where(torch.rand(chosen.shape, device=x.device) < self.explore, drawn, chosen)
            self.taken, self.seen = chosen, found
        return prefixed(x, chosen, len(self.bias))

    def settled(self) -> RuntimeGate:
        """With numbers that are rounded to bfloat16: they stand as text in a file."""
        return RuntimeGate(*(each.detach().bfloat16().float() for each in (self.values, self.bias)))

    def to_json(self) -> list[Any]:
        choices, channels = self.values.shape
        return [channels, choices, self.cost, self.explore]

    @classmethod
    def from_json(cls, record: list[Any]) -> "Deciding":
        match record:
            case [int(channels), int(choices), float(cost), float(explore)]:
                return cls(channels, choices, cost, explore)
        raise FormatError(f"{record} are no settings of an agent that learns")


@dataclass(frozen=True)
class Agents(TapRule):
    """An agent for what each convolution of the matching modules takes in, from the one that it has, or from nothing.

    Lin, Rao, Lu and Zhou (2017, NIPS) have one recurrent agent that goes through the layers; ours are linear, one a
    layer, and see nothing but their own map.
    """

    modules: tuple[str, ...]
    choices: int = 4
    explore: float = 0.1

    def __post_init__(self) -> None:
        if self.choices < 2 or not 0 <= self.explore <= 1:
            raise SchemeError(f"{self.choices} choices, explored with {self.explore}: give 2 or more, and 0 to 1")

    def taps(self, student: Compressed, task: Task) -> Sequence[TapSite]:
        shown = {
            place: name
            for place, x in inputs(student, task, self.modules).items()
            if x.ndim > 2 and (name := weight_of(student, place)) is not None
        }
        if not shown:
            raise SelectionError(f"no convolution of one group is in {', '.join(self.modules)}; name others")
        macs = _macs(student, task.example())
        total = sum(macs[name] for name in shown.values())
        sites = []
        for place, name in shown.items():
            agent = Deciding(student.parameter(name).shape[1], self.choices, macs[name] / total, self.explore)
            before = student.sites.get(place)
            if isinstance(before, RuntimeGate) and before.values.shape == agent.values.shape:
                agent.values.data.copy_(before.values)
                agent.bias.data.copy_(before.bias)
            sites.append(TapSite(place, agent))
        return sites


def _macs(student: Compressed, example: Example) -> dict[str, float]:
    """Multiply-accumulates of every weight for one sample."""
    return {name: times * student.parameter(name).numel() for name, times in uses(student.base, example).items()}


@dataclass(frozen=True)
class ActionValues(Term):
    """``Σ_l mean (Q_l(a_l) − y_l)²``, Q-learning of agents in the order in which they decide.

    ``y_l = − price c_l (a_l + 1) / k + max Q_{l+1}``, behind the last agent with minus the sample's loss for the
    maximum; ``c_l`` is the share that the layer has of all operations that agents decide on. What is maximised is then
    minus the loss and the price of what was computed (Lin, Rao, Lu and Zhou 2017, section 3.3, from memory: there the
    loss has a weight and a group of channels a price). No gradient goes into the network.
    """

    price: float = 0.1

    def __call__(self, tap: Tap) -> Tensor:
        assert isinstance(tap.student, Compressed)
        agents = [each for each in tap.student.taps if isinstance(each, Deciding)]
        if not agents:
            raise SelectionError("no activation goes through an agent that learns; give the stage Agents")
        ahead = -losses(tap)
        errors = []
        for agent in reversed(agents):
            paid = self.price * agent.cost * (agent.taken + 1) / len(agent.bias)
            errors.append((agent.seen.gather(1, agent.taken[:, None])[:, 0] - (ahead - paid)).square().mean())
            ahead = agent.seen.detach().amax(1)
        return torch.stack(errors).sum()


@torch.no_grad()
def losses(tap: Tap) -> Tensor:
    """The task's loss of every sample of a batch, [n]: all tensors of outputs and batch hold a sample a row."""

    def one(at: int) -> Tensor:
        pair = (tap.outputs, tap.batch)
        outputs, batch = tree_map(lambda x: x[at : at + 1] if isinstance(x, Tensor) else x, pair)
        return tap.loss(outputs, batch)

    return torch.stack([one(at) for at in range(len(tap.outputs))])


@torch.no_grad()
def average_macs(student: Compressed, data: Iterable[Any], example: Example) -> float:
    """Multiply-accumulates of a sample of ``data`` on average, were channels that gates close left out.

    The agents' own are among them. No engine here leaves out anything: this is a count, and no speed.
    """
    gates = {place: each for place, each in student.sites.items() if isinstance(each, RuntimeGate)}
    if not gates:
        raise SelectionError("no activation goes through an agent that has settled; learn them first")
    passed = {id(gate): [0.0, 0] for gate in gates.values()}

    def count(gate: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(gate, RuntimeGate)
        whole = prefixed(torch.ones_like(args[0][:, :, :1]), action_values(args[0], gate.values, gate.bias).argmax(1),
                         len(gate.bias))  # fmt: skip
        passed[id(gate)][0] += float(whole.flatten(1).mean(1).sum())
        passed[id(gate)][1] += len(whole)

    with hooked(gate.register_forward_pre_hook(count) for gate in gates.values()), evaluating(student):
        for batch in data:
            call(student, moved(batch, student.device))
    macs, total = _macs(student, example), float(operations(student.base, example).macs_dense)
    for place, gate in gates.items():
        name = weight_of(student, place)
        assert name is not None
        share, samples = passed[id(gate)]
        total -= macs[name] * (1 - share / samples)
    return total

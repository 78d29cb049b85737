"""Which parameters are projected before which others."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from featherweight.core.compressed import Compressed
from featherweight.core.metric import Metric
from featherweight.core.stage import MetricRule
from featherweight.core.task import Task
from featherweight.costs.layers import CostRule


@dataclass(frozen=True)
class CostliestFirst(MetricRule):
    """The metrics of ``rule``, the parameters one after another by falling ``cost`` of their layers.

    Costs are those of the student as the stage finds it. What is projected first has all others whole to rely on, and
    those that come later can make up for it (Yang, Chen and Sze 2017, arXiv 1611.05128, section 4).
    """

    rule: MetricRule
    cost: CostRule
    order: tuple[str, ...] = field(default=(), repr=False, compare=False)

    def begun(self, student: Compressed, names: Sequence[str], task: Task) -> "CostliestFirst":
        costs = self.cost.measure(student, task)
        order = sorted(names, key=lambda name: -costs.of(name, tuple(student.parameter(name).shape)))
        return replace(self, rule=self.rule.begun(student, order, task), order=tuple(order))

    def together(self, names: Sequence[str]) -> Sequence[Sequence[str]]:
        return [[name] for name in self.order if name in names]

    def measure(self, student: Compressed, names: Sequence[str], task: Task) -> dict[str, Metric]:
        return self.rule.measure(student, names, task)

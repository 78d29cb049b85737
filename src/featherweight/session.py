"""For users who keep their own training loop: a stage's projections, without our loop.

::

    session = begin(model, stage, steps=len(loader) * epochs)
    optimizer = torch.optim.Adam(session.student.parameters())
    for batch in ...:
        session.before_step()
        ...                                   # forward through session.student, backward, optimizer.step()
    student = session.finish()
"""

from dataclasses import dataclass, field

from torch import Tensor, nn

from featherweight.core.compressed import Compressed
from featherweight.core.errors import TaskError
from featherweight.core.plan import PlannedStage, plan_stage
from featherweight.core.stage import Stage
from featherweight.core.task import Example, Task
from featherweight.run import project_sites
from featherweight.training import loop


@dataclass(eq=False)
class Session:
    """A stage under way in somebody else's loop."""

    student: Compressed
    planned: PlannedStage
    task: Task
    targets: dict[int, float]
    step: int = field(default=0)

    def before_step(self) -> bool:
        """Project where the schedule says so. True where the student's Parameters are new: make a new optimizer.

        Parameters stay the same objects while latent weights learn; direct ones are new after every later projection.
        """
        target = self.targets.get(self.step) if self.step else None
        self.step += 1
        if target is None:
            return False
        before = {id(p) for p in self.student.parameters() if p.requires_grad}
        loop.advance(self.student, self.planned.stage, self._project, target)
        return before != {id(p) for p in self.student.parameters() if p.requires_grad}

    def _project(self, target: float) -> dict[str, Tensor]:
        schemes = {name: scheme.at(target) for name, scheme in self.planned.sites.items()}
        return project_sites(self.student, self.task, self.planned.stage, schemes)

    def finish(self) -> Compressed:
        """Stop learning: weights are decoded once, as stored. Raises ``TaskError`` before the last target."""
        last = max(self.targets)
        if self.step <= last:
            raise TaskError(f"the loop took {self.step} steps and the schedule projects last at step {last}; go on")
        self.student.settle()
        return self.student.eval()


def begin(model: nn.Module, stage: Stage, *, steps: int, task: Task | None = None) -> Session:
    """Start a stage on a copy of ``model`` that will learn for ``steps`` steps of the user's loop.

    ``task`` is needed where the stage's metric is measured on data. The model itself is never changed.
    """
    student = Compressed(model).train(model.training)
    around = task or Task(type(model).__name__, lambda: model, lambda: model, Example)
    planned = plan_stage(student.base, stage)
    targets = stage.schedule.targets(steps)
    session = Session(student, planned, around, targets)
    loop.begin(student, stage, session._project(targets[0]) if 0 in targets else {})
    return session

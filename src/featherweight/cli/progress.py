"""Progress of a compression on stderr: bars in a terminal, a line for every trial anywhere."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from featherweight.cli.output import console
from featherweight.core.task import Task
from featherweight.report.outlook import drop_unit, judged_on

if TYPE_CHECKING:
    from featherweight.engines.measure import Round
    from featherweight.search.budget import Trial
    from featherweight.training import loop


class Bars:
    """A bar for the stage that is learning; ``watch`` and ``tell`` go to ``compress``."""

    def __init__(self, task: Task, trials: int | None) -> None:
        out = console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=out, transient=True, disable=not out.is_terminal)
        self.task, self.trials, self.done = task, trials, 0
        self.bar: TaskID | None = None

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.progress.stop()

    def watch(self, now: "loop.Progress") -> None:
        """Told of every training step."""
        if self.progress.disable:
            return
        if self.bar is None or now.step == 1:
            self._close()
            self.bar = self.progress.add_task("", total=now.steps, loss="")
        text = f"{now.stage}, epoch {now.epoch} of {now.epochs}"
        self.progress.update(self.bar, completed=now.step, description=text, loss=f"loss {now.loss:.4f}")
        if now.step == now.steps:
            self._close()

    def tell(self, trial: "Trial") -> None:
        """Told of every trial of a search."""
        self.done += 1
        drop = f"a drop of {trial.drop:.3g} {drop_unit(self.task)}".rstrip()
        most = f" of at most {self.trials}" if self.trials is not None else ""
        line = f"trial {self.done}{most}: {trial.size:,} bytes, {drop}, by {judged_on(self.task)}"
        self.progress.console.print(line, soft_wrap=True)

    def _close(self) -> None:
        if self.bar is not None:
            self.progress.remove_task(self.bar)
            self.bar = None


class Rounds:
    """A bar for the rounds of a measurement, a line for every step and every round that was disturbed."""

    def __init__(self) -> None:
        out = console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=out, transient=True, disable=not out.is_terminal)
        self.bar = self.progress.add_task("", total=None, visible=False)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        self.progress.console.print(text, soft_wrap=True)
        self.progress.reset(self.bar, visible=False)

    def watch(self, now: "Round") -> None:
        """Told of every round."""
        if now.load > now.plan.disturbance:
            line = f"round {now.number} of at most {now.plan.most}: something else took {now.load:.2f} cores"
            self.progress.console.print(line, soft_wrap=True)
        text = f"{now.quiet} of {now.plan.rounds} rounds"
        self.progress.update(self.bar, completed=now.quiet, total=now.plan.rounds, description=text, visible=True)

"""What is known of a paper: its reference, its claims, our recipe for it and where we differ."""

from collections.abc import Callable
from dataclasses import dataclass

from featherweight.core.stage import Claim, Priced, Recipe, Reference

__all__ = ["Claim", "Paper"]


@dataclass(frozen=True)
class Paper:
    """A published method. ``recipe(task name)`` is ours for that task; ``tasks`` are those it was tuned on, best first.

    ``recipe("")`` is the general one, for any model. ``stand_ins`` are the tasks on which the recipe was measured in
    place of the paper's own data; without any, the first of ``tasks``. ``priced`` is for methods with one price of a
    bit: the recipe for a task at any price.
    """

    name: str
    reference: Reference
    idea: str
    claims: tuple[Claim, ...]
    tasks: tuple[str, ...]
    recipe: Callable[[str], Recipe]
    deviations: tuple[str, ...] = ()
    stand_ins: tuple[str, ...] = ()
    priced: Callable[[str], Priced] | None = None

    @property
    def measured_on(self) -> tuple[str, ...]:
        return self.stand_ins or self.tasks[:1]

    @property
    def claimed(self) -> str:
        """All claims as one text, each with where it was read."""
        return "; ".join(f"{claim.testbed}: {claim.statement} [{claim.checked}]" for claim in self.claims)

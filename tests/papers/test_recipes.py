"""Every paper: its recipe plans on its own tasks, its card says what it claims, and small ones run."""

import pytest

from featherweight.core.errors import SelectionError
from featherweight.core.plan import plan
from featherweight.papers import PAPERS, find
from featherweight.tasks import BUILT_IN


@pytest.mark.parametrize("name", PAPERS)
def test_recipes_plan_on_their_tasks(name: str) -> None:
    paper = find(name)
    assert paper.name == name
    assert paper.tasks and set(paper.tasks) <= set(BUILT_IN)
    for task in paper.tasks:
        recipe = paper.recipe(task)
        planned = plan(BUILT_IN[task]().architecture(), recipe)
        assert recipe.name == name
        assert recipe.reference == paper.reference
        assert str(planned)


@pytest.mark.parametrize("name", PAPERS)
def test_claims_say_where_they_were_read(name: str) -> None:
    paper = find(name)
    assert paper.claims and paper.deviations
    assert all(claim.checked for claim in paper.claims)


def test_an_unknown_paper() -> None:
    with pytest.raises(SelectionError, match="deep-compression"):
        find("deep-compresion")

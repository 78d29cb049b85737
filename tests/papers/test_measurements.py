"""Committed measurements are of the recipes as they stand, and say what the page says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from featherweight.core.errors import FormatError
from featherweight.papers import PAPERS
from featherweight.papers.measurement import EQUAL_ERROR, Measurement, measurements
from featherweight.report.card import measured_page
from featherweight.tasks import BUILT_IN

PAGE = Path(__file__).parents[2] / "docs" / "measured.md"
FOUND = measurements()


@pytest.mark.parametrize("found", FOUND, ids=lambda found: found.name)
def test_a_measurement_is_of_the_recipe_as_it_stands(found: Measurement) -> None:
    recipe = PAPERS[found.paper]().recipe(found.task)
    assert found.digest == recipe.digest, f"the recipe has changed; measure it again: {found.command}"
    assert (found.epochs, found.seeds) == (recipe.epochs, recipe.seeds)
    assert found.task in BUILT_IN and 0 < found.bytes < found.bytes_before


def test_every_paper_is_measured_on_each_of_its_stand_ins_and_nowhere_else() -> None:
    wanted = {(name, task) for name, make in PAPERS.items() for task in make().measured_on}
    found = {(each.paper, each.task) for each in FOUND}
    missing, strange = sorted(wanted - found), sorted(found - wanted)
    assert not missing, f"measure {missing}: featherweight reproduce PAPER --task TASK --record FOLDER"
    assert not strange, f"{strange} are no stand-ins of their papers: delete these records"


def test_a_changed_setting_is_another_digest_and_a_changed_remark_is_not() -> None:
    make = PAPERS["gradual-pruning"]().recipe
    recipe = make("mnist-lenet300")
    assert make("mnist-lenet5").digest != recipe.digest == make("mnist-lenet300").digest
    assert replace(recipe, deviations=("another remark",)).digest == recipe.digest


def test_measurements_are_ordered_by_bytes_within_the_limit() -> None:
    for task in {found.task for found in FOUND}:
        rows = [found for found in FOUND if found.task == task]
        inside = [found.bytes for found in rows if found.at_equal_error is not False]
        assert inside == sorted(inside)
        assert rows[: len(inside)] == [found for found in rows if found.at_equal_error is not False]
    assert set(EQUAL_ERROR) <= set(BUILT_IN)


def test_the_page_is_generated() -> None:
    papers = {name: make() for name, make in PAPERS.items()}
    assert PAGE.read_text(encoding="utf-8") == measured_page(FOUND, papers, EQUAL_ERROR), "run scripts/cards"


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"paper": 1}', '{"seeds": []}'])
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="no record"):
        Measurement.parse(text)


def test_a_record_is_read_as_it_was_written() -> None:
    assert Measurement.parse(json.dumps(FOUND[0].to_json())) == FOUND[0]

"""Every paper: its recipe plans on its own tasks, its card says what it claims, and small ones run."""

import math

import pytest
import torch
from torch import nn

from featherweight.activations.ranges import MinMax
from featherweight.core.errors import BudgetError, SelectionError
from featherweight.core.plan import plan
from featherweight.core.task import measure
from featherweight.papers import PAPERS, find, lin_fixed_point_sqnr, mxnet_quantization, ristretto
from featherweight.run import run
from featherweight.schemes.uniform import UniformCode
from featherweight.search.budget import nearness
from featherweight.tasks import BUILT_IN
from featherweight.tasks import find as find_task


@pytest.mark.parametrize("name", PAPERS)
def test_recipes_plan_on_their_tasks(name: str) -> None:
    paper = find(name)
    assert paper.name == name
    assert paper.tasks and set(paper.tasks) <= set(BUILT_IN)
    for task_name in paper.tasks:
        recipe = paper.recipe(task_name)
        planned = plan(BUILT_IN[task_name]().architecture(), recipe)
        assert recipe.name == name
        assert recipe.reference == paper.reference
        assert str(planned)


@pytest.mark.parametrize("name", PAPERS)
def test_claims_say_where_they_were_read(name: str) -> None:
    paper = find(name)
    assert paper.claims and paper.deviations
    assert all(claim.checked for claim in paper.claims)


def test_calibration_of_mxnet_with_a_layer_left_out(digits_model: nn.Module) -> None:
    digits, before = find_task("digits"), {}
    for name, observer in (("entropy", None), ("naive", MinMax())):
        recipe = mxnet_quantization.recipe(observer=observer, exclude=("conv1.*",))
        student, _ = run(digits_model, digits, recipe)
        assert "conv1.weight" not in student.codes and student.codes["conv2.weight"].bits == 8
        assert {tap.bits for tap in student.sites.values()} == {8}  # type: ignore[attr-defined]
        assert measure(student, digits.selection(), digits.quality) > 97  # type: ignore[misc]
        before[name] = {str(place): float(tap.scale) for place, tap in student.sites.items()}  # type: ignore[attr-defined]
    assert before["entropy"].keys() == before["naive"].keys()
    assert all(scale <= before["naive"][place] * 1.001 for place, scale in before["entropy"].items())
    assert before["entropy"] != before["naive"]


def test_dynamic_fixed_point_has_shifts_for_scales(digits_model: nn.Module) -> None:
    student, _ = run(digits_model, find_task("digits"), ristretto.recipe("digits"))
    codes = {name: code for name, code in student.codes.items() if isinstance(code, UniformCode)}
    assert [code.bits for code in codes.values()] == [4, 4, 4, 3, 3]
    scales = [code.scales.decode() for code in codes.values()]
    scales += [tap.scale.detach() for tap in student.sites.values()]  # type: ignore[attr-defined, union-attr]
    for scale in scales:
        assert torch.equal(torch.log2(scale), torch.log2(scale).round())


def test_bit_widths_are_those_of_each_group_alone(digits_model: nn.Module) -> None:
    assert ristretto.bit_widths(digits_model, find_task("digits"), 0.5) == ristretto.BITS["digits"]
    with pytest.raises(BudgetError, match="even 8 bits"):
        ristretto.bit_widths(digits_model, find_task("digits"), -1.0)


def test_closed_form_bits_are_fewer_in_larger_layers(digits_model: nn.Module) -> None:
    """Lin et al. 2016: within a mean, layers' bits differ by half the logarithm of the ratio of their sizes."""
    student, _ = run(digits_model, find_task("digits"), lin_fixed_point_sqnr.recipe(mean=3.0))
    codes = {name: code for name, code in student.codes.items() if isinstance(code, UniformCode)}
    sizes = {name: code.levels.numel() for name, code in codes.items()}
    assert sum(codes[name].bits * size for name, size in sizes.items()) <= 3.0 * sum(sizes.values())
    small, *_, large = sorted(codes, key=lambda name: sizes[name])
    wanted = math.log2(sizes[large] / sizes[small]) / 2
    assert codes[small].bits - codes[large].bits > wanted - 2  # each is rounded to a whole number
    assert nearness(student, digits_model, find_task("digits")) > 50


def test_an_unknown_paper() -> None:
    with pytest.raises(SelectionError, match="deep-compression"):
        find("deep-compresion")

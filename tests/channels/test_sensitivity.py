"""What is measured of a group's narrowing is what cutting it does."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from featherweight.channels.norms import Norm
from featherweight.channels.sensitivity import GroupSensitivity, Masking, NetAdapt
from featherweight.core.compressed import Compressed
from featherweight.core.errors import BudgetError, SchemeError
from featherweight.core.task import calibration_batches, call
from featherweight.costs.layers import Parameters
from featherweight.graph.cut import Cut
from featherweight.graph.edits import kept_by, removal, walk
from featherweight.metrics.hessian import InputMoment
from featherweight.search.channels import Tradeoff, reading, refilled, whole

from .nets import mixed, plain


def test_an_error_is_that_of_the_model_cut_and_made_up() -> None:
    """Against the cut itself, with the least squares of the one layer that reads the group."""
    model, given = plain()
    student = Compressed(model).eval()
    labels = (walked := walk(student.base, given.example())).labels
    score = GroupSensitivity(Norm(), batches=2)
    curve = score.curves(student, labels, given)[0]
    (name,) = reading(labels, curve.labels, student)
    gone = 3
    columns = reading(labels, curve.labels, student)[name][gone:].flatten().sort().values
    hessian = whole(InputMoment(batches=2).measure(student, [name], given))[name].hessian
    edits = removal(walked, curve.labels[:gone], student.base, given.example())
    full = refilled(student, name, hessian, columns)
    small = copy.deepcopy(student.base)
    for edit in edits:
        small = edit.replaced(small)
    small.get_parameter(name).data.copy_(Cut(kept_by(edits)).slice(name, full))
    data = list(calibration_batches(student, given, 2))
    with torch.no_grad():
        ours = torch.cat([call(small, batch) for batch in data])
        theirs = torch.cat([call(student.base, batch) for batch in data])
    assert curve.errors[gone] == pytest.approx(float((ours - theirs).square().sum() / theirs.square().sum()), rel=1e-6)


def test_curves_begin_at_zero_never_fall_and_are_straight_between_steps() -> None:
    model, given = mixed()
    student = Compressed(model).eval()
    labels = walk(student.base, given.example()).labels
    before = copy.deepcopy(model.state_dict())
    fine, coarse = (GroupSensitivity(Norm(), step, 1).curves(student, labels, given) for step in (1, 2))
    assert len(fine) == len(coarse) > 2
    for each, other in zip(fine, coarse, strict=True):
        assert each.labels == other.labels
        for curve in (each, other):
            assert curve.errors[0] == 0 and list(curve.errors) == sorted(curve.errors)
        count = len(each.labels)
        known = [k for k in range(count + 1) if k in (0, count) or (count - k) % 2 == 0]
        for low, high in zip(known, known[1:], strict=False):
            middle = (other.errors[low] + other.errors[high]) / 2
            assert high - low == 1 or other.errors[low + 1] == pytest.approx(middle)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_norms_of_a_masked_model_see_what_reaches_them_now() -> None:
    """With the batch's own mean and variance, the outputs are those of the cut model after its norms are set anew."""
    model, given = mixed()
    student = Compressed(model).eval()
    labels = (walked := walk(student.base, given.example())).labels
    curves = [
        each
        for each in Norm().curves(student, labels, given)
        if any(name == "conv1.weight" and dim == 0 for name, dim, _ in labels.free[each.labels[0]])
    ]
    masking = Masking(student, labels, curves, given, 1)
    small = Compressed(student.base).eval()
    edits = removal(walked, curves[0].labels[:2], student.base, given.example())
    (name,) = masking.readers[0]
    kept = masking.readers[0][name][2:].flatten().sort().values
    full = refilled(student, name, masking.moments[name], kept)
    for edit in edits:
        small.edit(edit)
    small.base.get_parameter(name).data.copy_(Cut(kept_by(edits)).slice(name, full))
    original = Compressed(student.base).eval()
    outputs = []
    for each in (small, original):
        for module in each.base.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train()
        batch = next(iter(calibration_batches(student, given, 1)))
        with torch.no_grad():
            outputs.append(call(each.base, batch))
    error = float((outputs[0] - outputs[1]).square().sum() / outputs[1].square().sum())
    assert masking.error([2]) == pytest.approx(error, rel=1e-6) and masking.error([0]) == 0


def test_netadapt_takes_the_least_harm_for_what_it_saves_and_keeps_to_the_budget() -> None:
    model, given = plain()
    student = Compressed(model).eval()
    labels = walk(student.base, given.example()).labels
    rule = NetAdapt(0.5, Parameters(), Norm(), progress=0.01, batches=2)
    curves = rule.score.curves(student, labels, given)
    costs = Parameters().measure(student, given)
    shapes = {name: tuple(student.parameter(name).shape) for name in student.names}
    allocated = rule.allocation(student, Tradeoff(labels, curves, costs, shapes), given)
    masking = Masking(student, labels, curves, given, 2)
    # One channel of the first hidden layer has 5 + 1 + 6 numbers, one of the second 8 + 1 + 3: the biases are its own.
    harms = [masking.error([1, 0]) / 12, masking.error([0, 1]) / 12]
    assert allocated(0.99) == ([1, 0] if harms[0] < harms[1] else [0, 1])
    edits = rule.decide(student, given)
    small = Compressed(student.base).eval()
    for edit in edits:
        small.edit(edit)
    count = sum(p.numel() for p in small.base.parameters())
    assert count <= 0.5 * sum(p.numel() for p in student.base.parameters())
    with pytest.raises(BudgetError, match="narrowest"):
        replace(rule, share=0.001).decide(student, given)


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        (GroupSensitivity, {"step": 0}),
        (GroupSensitivity, {"batches": 0}),
        (NetAdapt, {"share": 0.5, "progress": 0.0}),
        (NetAdapt, {"share": 0.5, "batches": 0}),
    ],
)
def test_settings_out_of_range_are_refused(rule: Callable[..., object], settings: dict[str, float]) -> None:
    with pytest.raises(SchemeError, match="give a"):
        rule(**settings)

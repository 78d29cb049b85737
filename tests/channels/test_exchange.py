"""Exchanges between groups: within the budget, and no worse than equal ratios in the error that they go by."""

from dataclasses import replace

import pytest
import torch

from featherweight.channels.exchange import Exchange, equal_ratios
from featherweight.channels.norms import Norm
from featherweight.channels.sensitivity import Masking
from featherweight.core.compressed import Compressed
from featherweight.core.errors import BudgetError, SchemeError
from featherweight.core.task import Task
from featherweight.costs.layers import Parameters
from featherweight.graph.edits import walk
from featherweight.search.channels import Move, Narrowing, Tradeoff, cost_without

from .nets import mixed, plain


def prepared(student: Compressed, given: Task) -> Tradeoff:
    labels = walk(student.base, given.example()).labels
    curves = Norm().curves(student, labels, given)
    shapes = {name: tuple(student.parameter(name).shape) for name in student.names}
    return Tradeoff(labels, curves, Parameters().measure(student, given), shapes)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_the_end_is_within_the_budget_and_no_exchange_is_better(share: float) -> None:
    model, given = mixed()
    student = Compressed(model).eval()
    before = {name: value.clone() for name, value in student.base.state_dict().items()}
    tradeoff = prepared(student, given)
    rule = Exchange(share, Parameters(), Norm(), batches=2, tried=1000)
    found = rule.allocation(student, tradeoff, given)(share)
    masking = Masking(student, tradeoff.labels, tradeoff.curves, given, 2)
    whole = Narrowing(tradeoff).cost
    error, even = masking.error(found), masking.error(equal_ratios(tradeoff, share, 1, 1))
    assert cost_without(tradeoff, found) <= share * whole and error <= even
    for up in range(len(found)):
        for down in range(len(found)):
            other = [gone - (k == up) + (k == down) for k, gone in enumerate(found)]
            fits = all(0 <= gone < len(curve.labels) for gone, curve in zip(other, tradeoff.curves, strict=True))
            if fits and cost_without(tradeoff, other) <= share * whole:
                assert masking.error(other) >= error * (1 - 1e-3), (found, other)
    assert all(torch.equal(value, before[name]) for name, value in student.base.state_dict().items())


def test_a_search_for_another_share_goes_on_from_the_last_one() -> None:
    model, given = mixed()
    student = Compressed(model).eval()
    tradeoff = prepared(student, given)
    allocated = Exchange(0.5, Parameters(), Norm(), batches=1).allocation(student, tradeoff, given)
    whole = Narrowing(tradeoff).cost
    costs = [cost_without(tradeoff, allocated(share)) / whole for share in (0.5, 0.3, 0.7, 1.0)]
    assert costs[1] <= 0.3 < costs[0] <= 0.5 < costs[2] <= 0.7
    assert costs[3] == 1.0, "everything comes back"


def test_equal_ratios_keep_the_same_part_of_every_group() -> None:
    model, given = plain()
    tradeoff = prepared(Compressed(model).eval(), given)
    sizes = [len(curve.labels) for curve in tradeoff.curves]
    whole = Narrowing(tradeoff).cost
    for share in (0.2, 0.5, 0.9):
        gone = equal_ratios(tradeoff, share, 1, 1)
        assert cost_without(tradeoff, gone) <= share * whole
        parts = [1 - count / size for count, size in zip(gone, sizes, strict=True)]
        assert max(parts) - min(parts) <= 1 / min(sizes)


def test_labels_that_come_back_restore_the_cost() -> None:
    model, given = mixed()
    tradeoff = prepared(Compressed(model).eval(), given)
    state = Narrowing(tradeoff)
    whole, shapes = state.cost, dict(state.shapes)
    state.set([len(curve.labels) - 1 for curve in tradeoff.curves])
    assert state.cost < whole
    for number in range(len(tradeoff.curves)):
        while (move := state.widened(number, 2)) is not None:
            cost = state.cost
            state.make(move)
            assert state.cost == pytest.approx(cost - move.saved) and move.saved < 0
    assert state.cost == whole and state.shapes == shapes
    state.make(Move(0, 2, 0.0, 0.0))
    assert state.cost == cost_without(tradeoff, [2] + [0] * (len(tradeoff.curves) - 1))


def test_what_cannot_be_reached_is_told() -> None:
    model, given = plain()
    with pytest.raises(BudgetError, match="narrowest"):
        Exchange(0.001, Parameters(), Norm(), batches=1).decide(Compressed(model).eval(), given)


@pytest.mark.parametrize("settings", [{"batches": 0}, {"tried": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(SchemeError, match="give a number of batches"):
        replace(Exchange(0.5), **settings)

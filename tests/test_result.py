"""Results: quality on all evaluation samples, and on those that no choice was made on."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import featherweight as fw
from featherweight import file
from featherweight.core.errors import SeenDataWarning, TaskError
from featherweight.result import compare, encode, measure_student
from featherweight.schemes.codebook import Codebook
from featherweight.search.budget import Effort

DICE = torch.Generator().manual_seed(0)
X, Y = torch.randn(90, 6, generator=DICE), torch.randint(0, 3, (90,), generator=DICE)
MASK = torch.rand(90, generator=DICE) < 0.3
NEGATED = fw.Quality("margin", "", False, lambda outputs, batch: outputs.gather(1, batch[1][:, None])[:, 0])


def linear(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(6, 3)


class Counting(nn.Module):
    """Counts the samples that it is run on."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        outputs: Tensor = self.inner(x)
        return outputs


def task(chosen: Callable[[], Tensor] | None = None, **more: object) -> fw.Task:
    return fw.Task(
        "mine",
        lambda: linear(0),
        lambda: linear(0),
        lambda: fw.Example((X[:1],)),
        evaluation=lambda: [(X[:50], Y[:50]), (X[50:], Y[50:])],
        chosen=chosen,
        **more,
    )


@pytest.mark.parametrize("quality", [fw.ACCURACY, NEGATED], ids=["accuracy", "lower is better"])
def test_the_rest_is_what_the_mask_leaves_and_each_model_is_run_once(quality: fw.Quality) -> None:
    parent, student = Counting(linear(0)), Counting(linear(1))
    claims, rest = compare(task(lambda: MASK, quality=quality), parent, student)
    assert parent.seen == student.seen == 90
    assert claims is not None and rest is not None
    ours, theirs = (quality.score(model.inner(X), (X, Y)).detach() for model in (student, parent))
    for found, mask in ((claims, torch.ones_like(MASK)), (rest, ~MASK)):
        assert found.samples == mask.sum()
        assert found.total == pytest.approx(float(ours[mask].sum()), abs=1e-4)
        assert found.parent == pytest.approx(float(theirs[mask].sum()), abs=1e-4)
        worse = ours < theirs if quality.higher_is_better else ours > theirs
        assert found.lost == (worse & mask).sum()


def test_a_file_measured_again_is_split_alike() -> None:
    measured = measure_student(fw.Compressed(linear(1)), task(lambda: MASK))
    right = (linear(1)(X).argmax(1) == Y).double()
    assert measured.samples == 90 and measured.value == pytest.approx(100 * right.mean().item())
    assert measured.rest is not None and measured.rest.samples == (~MASK).sum()
    assert measured.rest.value == pytest.approx(100 * right[~MASK].mean().item())


@pytest.mark.parametrize("chosen", [None, lambda: torch.zeros(90, dtype=torch.bool)], ids=["no mask", "nothing shared"])
def test_without_shared_samples_there_is_no_rest(chosen: Callable[[], Tensor] | None) -> None:
    assert compare(task(chosen), linear(0), linear(1))[1] is None
    assert measure_student(fw.Compressed(linear(1)), task(chosen)).rest is None


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (MASK[:-1], r"shape \[89\].*90 samples"),
        (MASK.long(), "int64.*bool mask"),
        (MASK[:, None], "bool mask"),
        (torch.ones(90, dtype=torch.bool), "every evaluation sample"),
    ],
)
def test_a_mask_that_does_not_fit_is_told(mask: Tensor, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        compare(task(lambda: mask), linear(0), linear(1))


def test_real_scores_of_a_task_with_a_number_are_not_rounded() -> None:
    """A file that names its task by a number holds counts alone; this one names its tensors instead."""
    claims = file.Claims(4, 9.25, -1.5, 2)
    student, recipe = fw.Compressed(linear(0)), fw.Recipe("one", (fw.everywhere("round", Codebook(2)),))
    data = encode(student, task(quality=NEGATED, number=99), recipe, claims)
    assert file.decode(data, linear(0)).header.claims == claims
    counted = file.Claims(4, 3.0, 4.0, 1)
    header = file.decode(encode(student, task(number=99), recipe, counted), linear(0)).header
    assert (header.number, header.claims) == (99, counted)


def test_a_limit_on_the_drop_is_doubted_where_nothing_honest_judges_it() -> None:
    budget, effort = fw.Budget(drop=1e6), Effort(trials=1)
    pairs = [(X, Y)]
    with pytest.warns(SeenDataWarning, match="no selection data"):
        fw.compress(task(calibration=lambda: pairs), budget=budget, effort=effort)
    with pytest.warns(SeenDataWarning, match="has seen its selection data"):
        fw.compress(
            task(calibration=lambda: pairs, selection=lambda: pairs, unseen=False), budget=budget, effort=effort
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fw.compress(task(calibration=lambda: pairs, selection=lambda: pairs), budget=budget, effort=effort)
        fw.compress(task(calibration=lambda: pairs), budget=fw.Budget(size=10_000), effort=effort)
        # The caller of a bare model was told what its drop is: how far the outputs move.
        fw.compress(linear(0), budget=budget, example=X[:1], calibration=[X], effort=effort)

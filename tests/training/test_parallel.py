"""Two processes that learn together are one that learns alone; what a teacher gave is kept where epochs recur."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, multiprocessing, nn

from featherweight.checkpoint import FILE
from featherweight.core.compressed import Compressed
from featherweight.core.edit import Edit
from featherweight.core.errors import SchemeError, TaskError
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import EditRule, Iterative, Learn, Recipe, Recurring, Stage, Training
from featherweight.core.task import Example, Task
from featherweight.graph.fold import FoldNorms
from featherweight.run import run
from featherweight.schemes.sparse import Fraction, Sparse
from featherweight.tasks.data import Tensors
from featherweight.training import loop, parallel
from featherweight.training.objectives import distillation

X = torch.randn(29, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def net(normalised: bool) -> nn.Module:
    torch.manual_seed(1)
    middle: list[nn.Module] = [nn.BatchNorm1d(8)] if normalised else []
    return nn.Sequential(nn.Linear(6, 8), *middle, nn.ReLU(), nn.Linear(8, 2)).eval()


def task(model: nn.Module) -> Task:
    loss: Callable[[Tensor, tuple[Tensor, Tensor]], Tensor] = lambda outputs, batch: F.cross_entropy(outputs, batch[1])  # noqa: E731
    data = lambda: Tensors(X, Y, batch_size=5, shuffle=True)  # noqa: E731 (the last has 4)
    return Task("parts", lambda: model, lambda: model, lambda: Example((X[:1],)), train=data, loss=loss)


def recipe() -> Recipe:
    """Pruned in two rounds, the second in the middle of an epoch, with clipped gradients."""
    sparse = Stage(
        "prune",
        {WEIGHTS: Sparse(Fraction(0.5))},
        schedule=Iterative(2),
        learn=Learn.LATENT,
        training=Training(3, 1e-2, clip=0.5),
        objective=distillation(),
    )
    return Recipe("parts", (sparse,))


def state_after(model: nn.Module, recipe: Recipe, folder: Path | None = None) -> dict[str, Tensor]:
    student, _ = run(model, task(model), recipe, folder=folder)
    return student.finished().state_dict()


@dataclass(frozen=True)
class FoldSome(EditRule):
    """Decides otherwise in every process, as what measures times may."""

    folds: bool

    def decide(self, student: Compressed, task: Task) -> Sequence[Edit]:
        return FoldNorms().decide(student, task) if self.folds else ()


def decided(folds: bool) -> Recipe:
    return Recipe("decided", (Stage("fold", edit=FoldSome(folds)),))


def part_of(rank: int, folder: Path) -> None:
    """One process of two: three trainings, and what became of the networks."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    states = [
        state_after(net(False), recipe(), folder / f"kept-{rank}"),
        state_after(net(True), recipe()),
        state_after(net(True), decided(rank == 0)),
    ]
    torch.save(states, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_learn_as_one(tmp_path: Path) -> None:
    """To rounding, from batches of which one gets more than the other; where norms see parts, as equal students."""
    multiprocessing.spawn(part_of, (tmp_path,), nprocs=2)
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for first, second in zip(ours, theirs, strict=True):
        assert list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)
    alone, before = state_after(net(False), recipe()), net(False).state_dict()
    for name, value in alone.items():
        torch.testing.assert_close(ours[0][name], value, rtol=1e-5, atol=1e-6)
        assert not torch.equal(value, before[name])
    assert list(ours[2]) == list(state_after(net(True), decided(True))) != list(net(True).state_dict())
    assert (tmp_path / "kept-0" / FILE).exists() and not (tmp_path / "kept-1").exists()


def test_batches_smaller_than_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "processes", lambda: 3)
    with pytest.raises(TaskError, match="2 samples for 3 processes"):
        parallel.part((X[:2], Y[:2]))
    with pytest.raises(TaskError, match="without tensors"):
        parallel.part("words")


def test_a_part_has_its_own_samples_of_every_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = ({"ids": X[:5], "scale": torch.tensor(2.0), "table": X[:3]}, Y[:5])
    assert parallel.part(batch) == (batch, 1.0)
    monkeypatch.setattr(parallel, "processes", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        parts.append(parallel.part(batch))
    assert [share for _, share in parts] == pytest.approx([6 / 5, 4 / 5])
    assert torch.equal(torch.cat([inputs["ids"] for (inputs, _), _ in parts]), X[:5])
    assert torch.equal(torch.cat([targets for (_, targets), _ in parts]), Y[:5])
    assert all(inputs["scale"] == 2 and torch.equal(inputs["table"], X[:3]) for (inputs, _), _ in parts)


class Watched(nn.Module):
    """Notes what it is run on, in all its copies."""

    noted: ClassVar[list[Tensor]] = []

    def __init__(self) -> None:
        super().__init__()
        self.inner = net(False)

    def forward(self, x: Tensor) -> Tensor:
        self.noted.append(x)
        outputs: Tensor = self.inner(x)
        return outputs


def learned(period: int) -> dict[str, Tensor]:
    model, training = net(True), Recurring(5, 1e-2, period=period)
    tuned = Stage("tune", training=training, objective=distillation())
    student, _ = run(model, task(model), Recipe("taught", (tuned,), teacher=Watched))
    return student.finished().state_dict()


def test_a_teacher_runs_until_epochs_recur(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it gave is given again: the student is that of a training that asks it every time."""
    monkeypatch.setattr(Watched, "noted", [])
    kept, steps = learned(2), -(-len(X) // 5)
    assert len(Watched.noted) == 2 * steps
    real = loop._Taught
    monkeypatch.setattr(loop, "_Taught", lambda teacher, recurs: real(teacher, False))
    monkeypatch.setattr(Watched, "noted", [])
    asked = learned(2)
    epochs = [torch.cat(Watched.noted[k * steps : (k + 1) * steps]) for k in range(5)]
    assert len(Watched.noted) == 5 * steps
    assert torch.equal(epochs[0], epochs[2]) and torch.equal(epochs[1], epochs[3]) and torch.equal(epochs[0], epochs[4])
    assert not torch.equal(epochs[0], epochs[1])
    assert all(torch.equal(kept[name], asked[name]) for name in asked)


def test_a_period_is_one_epoch_or_more() -> None:
    with pytest.raises(SchemeError, match="give 1 or more"):
        Recurring(5, period=0)

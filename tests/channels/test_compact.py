"""Compact maps: the matrix is circulant and keeps distances, nothing is lost where nothing need be, least squares."""

import pytest
import torch
from torch import Tensor, nn

from featherweight.channels.compact import CompactMaps, circulant, concentrated, covariance, fit_reader
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError, SelectionError
from featherweight.core.stage import Recipe, Stage
from featherweight.core.task import Example, Task
from featherweight.run import run

from .nets import mixed

QUICK = CompactMaps(0.5, steps=60, starts=3)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Chain(nn.Module):
    """Two convolutions, the first with ``activation`` behind it, and a linear layer on the flattened maps."""

    def __init__(self, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.one, self.act = nn.Conv2d(1, 8, 3, padding=1), activation or nn.Identity()
        self.two, self.head = nn.Conv2d(8, 4, 3), nn.Linear(4 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.two(self.act(self.one(x))).flatten(1))
        return out


def around(model: nn.Module) -> Task:
    model = model.double().eval()
    data = [(draw(20, 1, 6, 6, seed=number), torch.zeros(20, dtype=torch.long)) for number in range(4)]
    return Task(
        "chain",
        lambda: type(model)().double(),
        lambda: model,
        lambda: Example((data[0][0][:1],)),
        calibration=lambda: data,
    )


def compacted(given: Task, rule: CompactMaps) -> Compressed:
    return run(given.model(), given, Recipe("compact", (Stage("compact", edit=rule),)))[0]


@pytest.mark.parametrize("size", [2, 5, 8, 9])
def test_the_matrix_is_circulant_and_keeps_distances_and_energy_comes_together(size: int) -> None:
    factors = draw(size, 2, seed=size)
    spread = factors @ factors.T + 0.05 * torch.eye(size).double()
    mixing = concentrated(spread, max(size // 2, 1), QUICK)
    torch.testing.assert_close(mixing, circulant(mixing[:, 0]))
    torch.testing.assert_close(mixing @ mixing.T, torch.eye(size).double())
    x = draw(7, size, seed=3)
    torch.testing.assert_close(torch.cdist(x @ mixing.T, x @ mixing.T), torch.cdist(x, x), atol=1e-7, rtol=1e-7)
    kept = max(size // 2, 1)
    alone, ours = (m.diagonal().topk(kept).values.sum() for m in (spread, mixing @ spread @ mixing.T))
    assert float(alone) <= float(ours) * (1 + 1e-12) and float(ours) <= float(spread.trace()) * (1 + 1e-12)


def test_it_finds_the_mixture_that_a_circulant_matrix_can_undo() -> None:
    """Four sources, spread over eight maps by a circulant matrix: all of the energy can be had by four maps again."""
    phases = draw(5)
    phases[[0, 4]] = 0
    spreading = circulant(torch.fft.irfft(torch.polar(torch.ones(5).double(), phases), n=8))
    sources = torch.zeros(8, 8).double()
    sources[range(4), range(4)] = torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
    spread = spreading @ sources @ spreading.T
    mixing = concentrated(spread, 4, CompactMaps(0.5, steps=300, starts=6))
    left = (mixing @ spread @ mixing.T).diagonal().topk(4).values.sum() / spread.trace()
    alone = spread.diagonal().topk(4).values.sum() / spread.trace()
    assert float(left) > 0.97 and float(left) > float(alone) + 0.05


def test_nothing_is_lost_where_half_of_the_maps_say_nothing_once_they_are_mixed() -> None:
    """A linear network of eight maps with four sources; least squares make up for the rest."""
    torch.manual_seed(0)
    model = Chain()
    with torch.no_grad():
        model.one.weight.copy_((draw(8, 4) @ draw(4, 9, seed=1)).reshape(8, 1, 3, 3))
        model.one.bias.zero_()
    given = around(model)
    student = compacted(given, CompactMaps(0.5, ("one.weight",)))
    assert student.base.get_submodule("one").out_channels == 4 and student.base.get_submodule("two").in_channels == 4
    x = draw(10, 1, 6, 6, seed=9)
    before, after = (each(x).detach() for each in (given.model(), student))
    assert float((after - before).norm() / before.norm()) < 0.05


def test_readers_get_the_least_squares_of_what_they_were_given() -> None:
    """Against torch's solver, for all columns but those that go."""
    torch.manual_seed(1)
    given = around(Chain(nn.ReLU()))
    before = Compressed(given.model()).eval()
    after = Compressed(given.model()).eval()
    after.renew("one.weight", before.weight("one.weight").detach().flip(0) * 0.7)
    fit_reader(after, before, "two.weight", [1, 6], given, 4)
    rows = []
    for student in (before, after):
        maps = [student.base.one(batch[0]).relu() for batch in given.calibration_data()]  # type: ignore[operator, union-attr]
        rows.append(torch.cat([nn.functional.unfold(each, 3).transpose(1, 2).flatten(0, 1) for each in maps]).detach())
    kept = torch.tensor([at * 9 + k for at in (0, 2, 3, 4, 5, 7) for k in range(9)])
    wanted = rows[0] @ before.weight("two.weight").detach().flatten(1).T
    found = after.weight("two.weight").detach().flatten(1)
    assert not bool(found.reshape(4, 8, 9)[:, [1, 6]].any())
    best = torch.linalg.lstsq(rows[1][:, kept], wanted).solution.T
    errors = [float((rows[1][:, kept] @ v.T - wanted).square().sum()) for v in (best, found[:, kept])]
    assert errors[0] <= errors[1] <= 1.01 * errors[0]


def test_the_covariance_is_of_what_the_layer_gives_out() -> None:
    given = around(Chain())
    student = Compressed(given.model()).eval()
    maps = torch.cat([student.base.one(batch[0]) for batch in given.calibration_data()]).movedim(1, -1)  # type: ignore[operator, union-attr]
    torch.testing.assert_close(covariance(student, "one.weight", given, 4), torch.cov(maps.reshape(-1, 8).detach().T))


def test_norms_and_shared_maps_are_left_alone() -> None:
    """Of a mixed network only the hidden linear layer makes maps that can be mixed."""
    model, given = mixed()
    student = compacted(given, CompactMaps(0.4))
    shapes = {name: p.shape for name, p in student.base.named_parameters()}
    changed = {name for name, p in model.named_parameters() if p.shape != shapes[name]}
    assert changed == {"fc1.weight", "fc1.bias", "fc2.weight"}
    with pytest.raises(SelectionError, match="pass norms"):
        compacted(given, CompactMaps(0.4, ("conv1.weight", "stem.weight")))
    for settings in ({"share": 1.0}, {"share": 0.5, "batches": 0}):
        with pytest.raises(SchemeError):
            CompactMaps(**settings)  # type: ignore[arg-type]

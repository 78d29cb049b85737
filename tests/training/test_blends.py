"""Blends of images, and learning from a teacher alone on them."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.core.errors import SchemeError, TaskError
from featherweight.core.stage import Matching, Objective, Recipe, Stage, Term
from featherweight.core.task import Example, Task
from featherweight.run import run
from featherweight.tasks.data import Tensors
from featherweight.training.blends import Blended, CutMix, MixUp
from featherweight.training.objectives import OutputError, SoftTargets, SquaredError, TaskLoss

IMAGES = torch.randn(200, 3, 12, 9, generator=torch.Generator().manual_seed(0))
LABELS = (IMAGES[:, 0].mean((1, 2)) > 0).long()
CONSTANT = torch.arange(200.0).view(-1, 1, 1, 1).expand(200, 3, 12, 9)
"""Every pixel of an image says which it is."""


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(3)


def test_a_cut_mix_has_one_box_of_one_other_image() -> None:
    blended = CutMix()(CONSTANT)
    areas = []
    for number, image in enumerate(blended):
        other = image != number
        assert torch.equal(other[0], other[1]) and torch.equal(other[0], other[2])
        assert len(image[other].unique()) <= 1
        rows, columns = other[0].any(1), other[0].any(0)
        assert torch.equal(other[0], rows[:, None] & columns[None])  # a box: all of its rows and columns
        for side in (rows, columns):
            assert int((side[1:] != side[:-1]).sum()) <= 2  # in one piece
        areas.append(float(other[0].float().mean()))
    assert 0.2 < sum(areas) / len(areas) < 0.5  # half of the area, but for what lies outside
    assert max(areas) > 0.8


def test_a_mix_up_is_a_straight_line_between_two_images() -> None:
    blended = MixUp()(IMAGES)
    stays = []
    for number, image in enumerate(blended):
        # The other one is that whose direction from the first the blend lies in.
        change, towards = (image - IMAGES[number]).flatten(), (IMAGES - IMAGES[number]).flatten(1)
        cosine = F.cosine_similarity(change[None], towards)
        other = int(cosine.nan_to_num(-1).argmax())
        share = float(change.norm() / towards[other].norm().clamp(min=1e-9))
        torch.testing.assert_close(image, IMAGES[number].lerp(IMAGES[other], share), atol=1e-4, rtol=1e-4)
        stays.append(1 - share)
    values = torch.tensor(stays)
    assert values.min() < 0.05 and values.max() > 0.95 and abs(values.mean() - 0.5) < 0.1


@pytest.mark.parametrize("blend", [MixUp(0.3), CutMix(0.3)], ids=str)
def test_a_share_of_the_images_is_blended_and_the_others_stay(blend: Callable[[Tensor], Tensor]) -> None:
    before = CONSTANT.clone()
    blended = blend(before)
    assert torch.equal(before, CONSTANT)  # the data are not written to
    same = (blended == CONSTANT).flatten(1).all(1).float().mean()
    assert 0.6 < same < 0.85
    torch.manual_seed(3)
    assert torch.equal(blend(CONSTANT), blended)


@pytest.mark.parametrize("kind", [MixUp, CutMix])
@pytest.mark.parametrize("share", [0.0, 1.1])
def test_shares_are_checked(kind: type[MixUp | CutMix], share: float) -> None:
    with pytest.raises(SchemeError, match="above 0, and at most 1"):
        kind(share)


def test_only_images_blend() -> None:
    with pytest.raises(TaskError, match=r"images \[n, c, h, w\]"):
        MixUp()(torch.randn(4, 3))
    with pytest.raises(TaskError, match=r"images \[n, c, h, w\]"):
        CutMix()(torch.ones(4, 3, 2, 2, dtype=torch.int64))
    with pytest.raises(TaskError, match="one tensor of images"):
        list(Blended([({"input_ids": torch.ones(2, 3)}, LABELS[:2])], MixUp()))


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(280, 2)).eval()


def task(model: nn.Module) -> Task:
    loss: Callable[[Tensor, tuple[Tensor, Tensor]], Tensor] = lambda outputs, batch: F.cross_entropy(outputs, batch[1])  # noqa: E731
    data = lambda: Tensors(IMAGES, LABELS, batch_size=50, shuffle=True)  # noqa: E731
    return Task("images", net, lambda: model, lambda: Example((IMAGES[:1],)), train=data, loss=loss)


def begun() -> nn.Module:
    """A student that begins elsewhere than its teacher, :func:`net`."""
    model = net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model


def matched(model: nn.Module, *terms: Term) -> nn.Module:
    stage = Stage("match", training=Matching(30, 1e-2, blend=CutMix(0.5), period=4), objective=Objective(terms))
    student, _ = run(model, task(model), Recipe("matched", (stage,), teacher=net))
    return student.finished()


@pytest.mark.parametrize("term", [SoftTargets(), OutputError()], ids=str)
def test_a_student_comes_to_match_its_teacher(term: Term) -> None:
    before = begun()
    after, new = matched(before, term), torch.randn(100, 3, 12, 9)
    with torch.no_grad():
        errors = [(model(new).softmax(1) - net()(new).softmax(1)).abs().mean() for model in (before, after)]
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("term", [TaskLoss(), SquaredError()], ids=str)
def test_blends_have_no_labels(term: Term) -> None:
    with pytest.raises(TaskError, match="blends have no labels|class numbers"):
        matched(begun(), term)


def test_matching_needs_training_data() -> None:
    model = net()
    stage = Stage("match", training=Matching(1, blend=MixUp()), objective=Objective((OutputError(),)))
    plain = replace(task(model), train=None, loss=None)
    with pytest.raises(TaskError, match="no training data"):
        run(model, plain, Recipe("matched", (stage,)))

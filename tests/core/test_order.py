"""Images in the order of memory that convolutions are fast in, for models that take it, and for those alone."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featherweight.core.stage import Objective, Recipe, Stage, Tap, Training
from featherweight.core.task import Batch, Example, Task, channels_last, order_for
from featherweight.papers import find
from featherweight.run import run
from featherweight.tasks.data import Tensors
from featherweight.training.objectives import TaskLoss, distillation

IMAGES = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(0, 10, (64,), generator=torch.Generator().manual_seed(1))


class Flattening(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(216, 10)
        self.seen: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.is_contiguous(memory_format=torch.channels_last))
        outer: Tensor = self.fc(self.flat(F.relu(self.norm(self.conv(images)))))
        return outer

    def flat(self, maps: Tensor) -> Tensor:
        return maps.flatten(1)


class Viewing(Flattening):
    """As in many tutorials: an error for maps with their channels last."""

    def flat(self, maps: Tensor) -> Tensor:
        return maps.view(-1, 216)


class Mapping(Flattening):
    """Gives a map, which a loss may view."""

    def forward(self, images: Tensor) -> Tensor:
        outer: Tensor = self.conv(images)
        return outer


def task(kind: type[Flattening]) -> Task:
    def data() -> Tensors:
        return Tensors(IMAGES, TARGETS, 32)

    def model() -> nn.Module:
        torch.manual_seed(0)
        return kind().eval()

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        assert batch[0].is_contiguous()
        return F.cross_entropy(outputs, batch[1])

    return Task("images", kind, model, lambda: Example((IMAGES[:1],)), data, data, data, loss=loss)


@pytest.mark.parametrize(("kind", "taken"), [(Flattening, True), (Viewing, False), (Mapping, False)])
def test_a_model_gets_the_order_that_it_takes(kind: type[Flattening], taken: bool) -> None:
    model = kind().train()
    mean = model.norm.running_mean.clone() if model.norm.running_mean is not None else None
    order = order_for(task(kind), model)
    assert order(IMAGES).is_contiguous(memory_format=torch.channels_last) is taken
    assert (order is channels_last) is taken
    assert all(module.training for module in model.modules()) and torch.equal(model.norm.running_mean, mean)  # type: ignore[arg-type]


def test_the_order_is_one_that_all_models_take() -> None:
    assert order_for(task(Flattening), Flattening(), Flattening()) is channels_last
    assert order_for(task(Flattening), Flattening(), Viewing()) is not channels_last


def test_what_is_no_image_stays_as_it_is() -> None:
    x, mask = torch.randn(4, 5), torch.randn(4, 3, 8, 8)
    words = replace(task(Flattening), example=lambda: Example((x[:1],)))
    assert order_for(words, nn.Linear(5, 2))(x) is x
    found = channels_last({"x": x, "nested": [mask, None]})
    assert found["x"] is x and torch.equal(found["nested"][0], mask) and found["nested"][1] is None


def test_training_gives_images_to_models_in_it_and_to_the_loss_as_they_come() -> None:
    tapped = []

    class Watched(TaskLoss):
        def __call__(self, tap: Tap) -> Tensor:
            tapped.append(tap.batch[0].is_contiguous())
            return super().__call__(tap)

    for kind in (Flattening, Viewing):
        stage = Stage("learn", training=Training(1), objective=Objective((Watched(1.0),)))
        student, _ = run(task(kind).model(), task(kind), Recipe("learn", (stage,)))
        seen = student.base.seen
        assert isinstance(seen, list) and seen[-2:] == [kind is Flattening] * 2
    assert tapped == [True] * 4


@pytest.mark.parametrize("name", ["gptq", "adaround", "brecq", "watersic", "sparsegpt"])
def test_models_that_view_their_maps_are_compressed_by_calibration(name: str) -> None:
    student, _ = run(task(Viewing).model(), task(Viewing), find(name).recipe("digits"))
    assert "fc.weight" in student.codes


def test_a_teacher_that_views_its_maps_teaches() -> None:
    stage = Stage("learn", training=Training(1), objective=distillation())
    recipe = Recipe("learn", (stage,), teacher=lambda: Viewing().eval())
    student, _ = run(task(Flattening).model(), task(Flattening), recipe)
    assert not student.training

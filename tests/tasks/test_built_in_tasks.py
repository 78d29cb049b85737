"""The built-in tasks: their table, the digits in full, and the others where their data is at hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from featherweight.core.errors import SelectionError
from featherweight.core.task import Task, measure, scores
from featherweight.tasks import BUILT_IN, Tensors, by_number, cifar, find, mnist
from featherweight.tasks.digits import LSTM as DIGITS_LSTM
from featherweight.tasks.digits import SETTINGS as DIGITS
from featherweight.tasks.training import SHIPPED

REAL = Path(os.environ.get("FEATHERWEIGHT_DATA", ""))
MNIST_TASKS = ["mnist-lenet300", "mnist-lenet5", "fashion-lenet5"]
SETTINGS = {"mnist-lenet300": mnist.LENET300, "mnist-lenet5": mnist.LENET5, "fashion-lenet5": mnist.FASHION_LENET5}
NEEDS = {
    "mnist-lenet300": "MNIST/raw",
    "mnist-lenet5": "MNIST/raw",
    "fashion-lenet5": "FashionMNIST/raw",
    "cifar10-resnet20": "cifar-10-batches-py",
    "cifar10-resnet56": "cifar-10-batches-py",
}


def real(name: str) -> Task:
    """The task, or a skip where its data is absent: tests fetch nothing."""
    if "FEATHERWEIGHT_DATA" not in os.environ or not (REAL / NEEDS[name]).is_dir():
        pytest.skip(f"{NEEDS[name]} is not in FEATHERWEIGHT_DATA")
    return find(name)


def part(task: Task, name: str) -> Tensors:
    data = getattr(task, name)()
    assert isinstance(data, Tensors)
    return data


@pytest.fixture
def digits() -> Task:
    return find("digits")


def test_names_and_numbers_are_those_of_the_table() -> None:
    assert {name: make().number for name, make in BUILT_IN.items()} == {
        "digits": 1,
        "mnist-lenet300": 2,
        "mnist-lenet5": 3,
        "fashion-lenet5": 4,
        "cifar10-resnet20": 5,
        "cifar10-resnet32": 6,
        "cifar10-resnet44": 7,
        "cifar10-resnet56": 8,
        "imagenet-lite0": 9,
        "minilm": 10,
        "shakespeare-lstm": 11,
        "shakespeare-transformer": 12,
        "digits-lstm": 13,
    }
    for name, make in BUILT_IN.items():
        task = make()
        assert task.name == find(name).name == name
        assert task.number is not None and by_number(task.number).name == name


def test_an_unknown_number_lists_the_known_ones() -> None:
    with pytest.raises(SelectionError, match="no task of number 99; known are 1 digits, 2 mnist-lenet300"):
        by_number(99)


def test_tasks_are_made_without_reading_data() -> None:
    """Nor is scikit-learn imported, which takes a second."""
    code = (
        "import sys, featherweight.tasks as tasks\n"
        "for number in [*range(1, 10), 11, 12]:\n"
        "    task = tasks.by_number(number)\n"
        "    task.example().run(task.architecture())\n"
        "assert not {'sklearn', 'PIL', 'transformers', 'tokenizers'} & set(sys.modules)\n"
    )
    environment = os.environ | {"FEATHERWEIGHT_DATA": "/nowhere", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)


def test_the_digits_are_split_once_and_for_all(digits: Task) -> None:
    parts = {name: part(digits, name) for name in ("train", "selection", "evaluation")}
    assert {name: data.samples for name, data in parts.items()} == {"train": 998, "selection": 200, "evaluation": 599}
    rows = torch.cat([data.inputs.flatten(1) for data in parts.values()])
    assert len(rows.unique(dim=0)) == 1_797  # no digit is in two parts, and no two are equal
    assert rows.mean().abs() < 1e-3 and (rows.std() - 1).abs() < 1e-3
    for data in parts.values():
        share = torch.bincount(data.targets, minlength=10) / data.samples
        assert (share - 0.1).abs().max() < 0.006
    # Frozen: another split would make figures of different versions incomparable.
    assert parts["evaluation"].inputs.double().sum().item() == pytest.approx(-120.8281, abs=1e-2)


def test_training_data_is_augmented_and_calibration_data_is_not(digits: Task) -> None:
    train, calibration = part(digits, "train"), digits.calibration_data()
    assert isinstance(calibration, Tensors)
    assert train.shuffle and train.augment is not None and torch.equal(train.inputs, calibration.inputs)
    assert not calibration.shuffle and calibration.augment is None


@pytest.mark.parametrize("name", MNIST_TASKS)
def test_shapes_and_scale_of_mnist(name: str) -> None:
    task = real(name)
    parts = {kind: part(task, kind) for kind in ("train", "selection", "evaluation")}
    counts = {kind: data.samples for kind, data in parts.items()}
    assert counts == {"train": 55_000, "selection": 5_000, "evaluation": 10_000}
    for data in parts.values():
        assert data.inputs.shape[1:] == (1, 28, 28) and data.inputs.dtype == torch.float32
        assert data.inputs.mean().abs() < 0.02 and (data.inputs.std() - 1).abs() < 0.02
        assert torch.bincount(data.targets, minlength=10).min() > 0.085 * data.samples
    assert task.loss is not None
    inputs, targets = next(iter(parts["train"]))
    torch.testing.assert_close(inputs.min(), parts["train"].inputs.min())  # what a shift brings in is black
    task.loss(task.architecture()(inputs), (inputs, targets)).backward()


@pytest.mark.parametrize(
    ("name", "error"), [("mnist-lenet300", 1.64), ("mnist-lenet5", 0.80), ("fashion-lenet5", 10.5)]
)
def test_the_trained_baselines_of_mnist(name: str, error: float) -> None:
    task = real(name)
    if not list((REAL / "models").glob(f"{name}-{SETTINGS[name].key()}.safetensors")):
        pytest.skip(f"the baseline of {name} is not in FEATHERWEIGHT_DATA/models; training it takes minutes")
    assert 100 - measure(task.model(), part(task, "evaluation"), task.quality) <= error


def test_the_baselines_on_digits_come_with_the_package() -> None:
    """Those of the settings that are there now: after other settings, run ``scripts/baselines``."""
    names = {"digits": DIGITS, "digits-lstm": DIGITS_LSTM}
    wanted = {f"{name}-{settings.key()}.safetensors" for name, settings in names.items()}
    assert {path.name for path in SHIPPED.iterdir()} == wanted
    for name in names:
        task, state = find(name), torch.get_rng_state()
        model = task.model()
        assert torch.equal(torch.get_rng_state(), state)
        assert measure(model, part(task, "evaluation"), task.quality) >= 98
        assert measure(model, part(task, "selection"), task.quality) >= 98


@pytest.mark.parametrize(("depth", "images", "least", "most"), [(20, 10_000, 9_173, 9_173), (56, 2_000, 1_840, 1_900)])
def test_the_published_resnets_score_as_published(depth: int, images: int, least: int, most: int) -> None:
    task = real(f"cifar10-resnet{depth}")
    if not (REAL / "weights" / cifar.WEIGHTS[depth]).exists():
        pytest.skip(f"weights/{cifar.WEIGHTS[depth]} is not in FEATHERWEIGHT_DATA")
    test = part(task, "evaluation")
    right = scores(task.model(), Tensors(test.inputs[:images], test.targets[:images]), task.quality)
    assert len(right) == images and least <= right.sum().item() <= most


def test_cifar_training_images_are_cropped_and_mirrored() -> None:
    train = part(real("cifar10-resnet20"), "train")
    assert train.samples == 50_000
    inputs, targets = next(iter(train))
    assert inputs.shape == (128, 3, 32, 32) and targets.shape == (128,)
    black = train.inputs.amin(dim=(0, 2, 3))
    torch.testing.assert_close(inputs.amin(dim=(0, 2, 3)), black)  # what a crop brings in is black
    calibration = part(real("cifar10-resnet20"), "calibration")
    assert calibration.samples == 2_048 and not calibration.shuffle and calibration.augment is None
    assert torch.equal(calibration.inputs, train.inputs[:2_048])


def test_cifar_chooses_on_test_images_that_are_known() -> None:
    """The mask is frozen: with another one, figures of different versions could not be compared."""
    chosen = cifar.chosen()
    assert chosen.shape == (10_000,) and chosen.sum() == 2_000
    assert chosen.nonzero().flatten()[:5].tolist() == [9, 15, 18, 23, 31] and int(chosen.nonzero().sum()) == 10125536
    task = real("cifar10-resnet20")
    selection, evaluation = part(task, "selection"), part(task, "evaluation")
    assert evaluation.samples == 10_000
    assert torch.equal(selection.inputs, evaluation.inputs[chosen])
    assert torch.equal(selection.targets, evaluation.targets[chosen])

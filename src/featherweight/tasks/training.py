"""Training the baselines of the built-in tasks, once, and keeping them."""

import hashlib
import io
import json
import math
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
import torch.nn.functional as F
from filelock import FileLock
from rich.console import Console
from rich.progress import Progress
from safetensors import SafetensorError
from torch import Tensor, nn

from featherweight.core.errors import DataError
from featherweight.tasks.data import VARIABLE, data_folder
from featherweight.tasks.download import write_atomically

LOOP = 1
"""Raised when :func:`train_baseline` changes, so that models of the old loop are not taken for those of the new one."""

SHIPPED = Path(__file__).parent / "weights"
"""Baselines that come with the package, which ``scripts/baselines`` trains."""

KEPT = 60.0
"""Seconds after which a training is kept, so that it can go on."""


class Rounds(Protocol):
    """Training data: batches ``(inputs, targets)``, so many a round, again and again."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Baseline:
    """How a baseline is trained.

    epochs         rounds through the training data; the model of the last one is taken
    batch_size     samples in a batch
    learning_rate  the highest one, of Adam (Kingma, Ba, ICLR 2015) with decoupled weight decay (Loshchilov, Hutter,
                   ICLR 2019): a straight line up over the first tenth of the steps, half a cosine down to 0 after
    weight_decay   of every parameter
    seed           of the first weights, the order and the augmentation
    shift          pixels by which the training images move at most, see :mod:`featherweight.tasks.augment`
    turn           degrees by which they turn at most
    zoom           part by which they grow or shrink at most
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int
    shift: float
    turn: float = 0.0
    zoom: float = 0.0

    def key(self) -> str:
        """Twelve hexadecimal digits that differ where any setting differs."""
        settings = json.dumps({"loop": LOOP, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(settings.encode()).hexdigest()[:12]


def cross_entropy(outputs: Tensor, batch: Any) -> Tensor:
    """The mean cross entropy of logits ``[n, classes]`` and the batch's class numbers, in nats."""
    return F.cross_entropy(outputs, batch[1])


def baseline(
    name: str,
    architecture: Callable[[], nn.Module],
    train: Callable[[], Rounds],
    settings: Baseline,
    loss: Loss = cross_entropy,
) -> nn.Module:
    """The trained network of task ``name``: one that comes with the package, else from the data folder's
    ``models/<name>-<key>.safetensors``, or trained now and kept there.

    Trained on the CPU whatever the default device is, so that there is one baseline; delivered on the default device
    and in evaluation mode. The random state of the caller stays as it is. Of several processes one trains and the
    others wait; a training that was killed goes on from its last minute.
    """
    file = f"{name}-{settings.key()}.safetensors"
    shipped = SHIPPED / file
    path = shipped if shipped.exists() else data_folder() / "models" / file
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # Not torch.manual_seed, which would seed the generators of all devices too.
        torch.default_generator.manual_seed(settings.seed)
        model = architecture()
        if not path.exists():
            _check_writable(path.parent)
            with _alone(path):
                if not path.exists():
                    _train_and_keep(model, train(), settings, name, loss, path)
        _load(model, path)
    return model.to(torch.get_default_device()).eval()


def _train_and_keep(model: nn.Module, data: Rounds, settings: Baseline, name: str, loss: Loss, path: Path) -> None:
    partial = path.with_suffix(".partial")
    train_baseline(model, data, settings, name, loss, partial)
    write_atomically(path, safetensors.torch.save(model.state_dict()))
    partial.unlink(missing_ok=True)


def train_baseline(
    model: nn.Module,
    data: Rounds,
    settings: Baseline,
    name: str = "model",
    loss: Loss = cross_entropy,
    partial: Path | None = None,
) -> None:
    """Train ``model`` in place with ``loss(outputs, batch)``; the caller seeds torch's generator.

    With the same seed, version of torch and number of threads, the result is the same to the bit. What was trained is
    kept in ``partial`` about every minute, after a round, and a training that finds it goes on from there.
    """
    steps = settings.epochs * len(data)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rise_and_fall(step, steps))
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    done = _restore(partial, parts) if partial is not None and partial.exists() else 0
    kept = time.monotonic()
    model.train()
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task(f"training {name}, once", total=steps, completed=done * len(data))
        for epoch in range(done, settings.epochs):
            for batch in data:
                optimizer.zero_grad(set_to_none=True)
                loss(model(batch[0]), batch).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                progress.advance(bar)
            if partial is not None and time.monotonic() - kept >= KEPT and epoch + 1 < settings.epochs:
                _keep(partial, parts, epoch + 1)
                kept = time.monotonic()


def _keep(path: Path, parts: Mapping[str, Any], epochs: int) -> None:
    record = {name: part.state_dict() for name, part in parts.items()}
    content = io.BytesIO()
    torch.save(record | {"epochs": epochs, "random": torch.get_rng_state()}, content)
    write_atomically(path, content.getvalue())


def _restore(path: Path, parts: Mapping[str, Any]) -> int:
    """The rounds that were trained."""
    try:
        record = torch.load(path, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(record[name])
        torch.set_rng_state(record["random"])
        return int(record["epochs"])
    except (OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise DataError(
            f"{path} is no training that can go on ({error}). Delete it and it will be trained anew"
        ) from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time; a later one that finds no lock file finds what the first has made."""
    lock = path.with_suffix(".lock")
    with FileLock(lock):
        try:
            yield
        finally:
            with suppress(OSError):
                lock.unlink()


def rise_and_fall(step: int, steps: int) -> float:
    """The part of the highest rate at ``step`` of ``steps``: above 0 at the first one, 0 behind the last one."""
    rise = max(1, steps // 10)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise))))


def _load(model: nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{path} is no model of this task ({error}). Delete it and it will be trained again") from error


def _check_writable(folder: Path) -> None:
    """Before minutes of training, not after."""
    try:
        write_atomically(folder / ".writable", b"")
        (folder / ".writable").unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"the trained model cannot be kept in {folder} ({error}). Set {VARIABLE} to a folder that can be written"
        ) from error

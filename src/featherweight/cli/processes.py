"""``--processes``: others that learn together with this one, and end with it."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from featherweight.core.stage import Priced, Recipe
    from featherweight.core.task import Task

Processes = Annotated[
    int,
    typer.Option(min=1, help="Learn in so many processes, each with its part of every batch and of the threads."),
]
Asked = Callable[[], "tuple[Task, Recipe | Priced | None]"]
"""Finds the task and the recipe that the user asked for, in any process."""

PATIENCE = timedelta(days=1)
"""How long processes wait for another: the first may measure for hours before all learn."""


def check_processes(processes: int, recipe: "Recipe | Priced | None") -> None:
    """Raise ``typer.BadParameter`` where nothing would learn in them."""
    if processes > 1 and not any(stage.training is not None for stage in getattr(recipe, "stages", ())):
        raise typer.BadParameter("--processes is for recipes that train, and this one does not; leave it out")


@contextmanager
def helped(processes: int, asked: Asked, checkpoint: Path | None) -> Iterator[None]:
    """Run the block as the first of so many processes, of which the others carry out the same recipe meanwhile."""
    if processes == 1:
        yield
        return
    import torch
    from torch import distributed, multiprocessing

    threads = torch.get_num_threads()
    share = max(1, threads // processes)
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        meeting, ready = f"file://{folder}/meeting", spawn.Semaphore(0)
        others: list[BaseProcess] = [
            spawn.Process(target=_help, args=(rank, processes, meeting, ready, share, asked, checkpoint), daemon=True)
            for rank in range(1, processes)
        ]
        for each in others:
            each.start()
        try:
            for _ in others:
                while not ready.acquire(timeout=1):
                    _check_alive(others)
            torch.set_num_threads(share)
            distributed.init_process_group("gloo", meeting, PATIENCE, processes, 0)
            yield
        except BaseException as error:
            if isinstance(error, RuntimeError) and "gloo" in str(error):  # a connection was closed
                others[0].join(timeout=1)
                _check_alive(others, error)
            for each in others:
                each.terminate()
            raise
        finally:
            torch.set_num_threads(threads)
            if distributed.is_initialized():
                distributed.destroy_process_group()
            for each in others:
                each.join()


def _check_alive(others: "Sequence[BaseProcess]", error: Exception | None = None) -> None:
    """Raise ``TaskError`` where one has ended before its time."""
    from featherweight.core.errors import TaskError

    codes = [each.exitcode for each in others if each.exitcode]
    if codes:
        for each in others:
            each.terminate()
        raise TaskError(
            f"a process that learned along ended with code {codes[0]} (-9 is often a lack of memory: each holds the "
            "model and the data); give fewer --processes"
        ) from error


def _help(
    rank: int, processes: int, meeting: str, ready: Any, threads: int, asked: Asked, checkpoint: Path | None
) -> None:
    """What another process does: all but the last measurements and the file. What goes wrong, the first says too."""
    import warnings

    import torch
    from torch import distributed

    from featherweight.core.errors import FeatherweightError
    from featherweight.core.stage import Priced
    from featherweight.run import run

    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    try:
        task, recipe = asked()
        ready.release()
        distributed.init_process_group("gloo", meeting, PATIENCE, processes, rank)
        assert recipe is not None and not isinstance(recipe, Priced)
        run(task.model(), task, recipe, folder=checkpoint)
    except (FeatherweightError, KeyboardInterrupt):
        raise SystemExit(1) from None

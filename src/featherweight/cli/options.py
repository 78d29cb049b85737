"""Options that several commands have."""

from typing import Annotated

import typer

from featherweight.cli.sizes import parse_size

TaskOption = Annotated[
    str | None,
    typer.Option("--task", help="The task that the file is of: a built-in one, or my_task.py:function for your own."),
]
MaxBytes = Annotated[
    int | None,
    typer.Option(
        parser=parse_size, metavar="SIZE", help="Refuse files whose decoded tensors take more; 1GiB if not given."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the output file.")]

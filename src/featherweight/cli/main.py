"""``featherweight``: the table of commands.

Nothing here imports torch; what a command needs is imported when it runs.
"""

from typing import Annotated

import typer

from featherweight import __version__
from featherweight.cli.compress import compress
from featherweight.cli.export import export
from featherweight.cli.guard import Guarded
from featherweight.cli.inspect import inspect
from featherweight.cli.measure import measure
from featherweight.cli.papers import papers
from featherweight.cli.report import report
from featherweight.cli.reproduce import reproduce
from featherweight.cli.tasks import tasks
from featherweight.cli.unpack import unpack
from featherweight.cli.verify import verify

app = typer.Typer(
    name="featherweight",
    help="Makes PyTorch models small: tiny .fwt files that load and run, every byte counted.",
    epilog="Start with: featherweight compress digits --max-size 17kB --max-drop 0.5",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"featherweight {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


for command, examples in (
    (
        compress,
        "featherweight compress mnist-lenet5 --max-size 17kB --max-drop 0.1\n\n"
        "featherweight compress my_task.py:task --recipe deep-compression -o small.fwt",
    ),
    (inspect, "featherweight inspect small.fwt\n\nfeatherweight inspect small.fwt --json"),
    (
        verify,
        "featherweight verify mnist-lenet5.fwt\n\nfeatherweight verify small.fwt --task my_task.py:task --json",
    ),
    (unpack, "featherweight unpack mnist-lenet5.fwt -o lenet5.safetensors"),
    (
        export,
        "featherweight export mnist-lenet5.fwt -o lenet5.onnx\n\n"
        "featherweight export small.fwt -o small.pt2 --task my_task.py:task --json",
    ),
    (
        measure,
        "featherweight measure mnist-lenet5.fwt\n\n"
        "featherweight measure small.fwt --engine onnxruntime --threads 1 --threads 2 --batch 32 --save measured.json",
    ),
    (
        report,
        "featherweight report mnist-lenet5.fwt\n\n"
        "featherweight report small.fwt --task my_task.py:task --measurement measurement.json -o report.html",
    ),
    (
        papers,
        "featherweight papers pruning\n\nfeatherweight papers --measured\n\n"
        "featherweight papers deep-compression --card",
    ),
    (reproduce, "featherweight reproduce deep-compression --task digits -o digits.fwt"),
    (tasks, "featherweight tasks\n\nfeatherweight tasks --json"),
):
    app.command(cls=Guarded, epilog="Examples:\n\n" + examples, no_args_is_help=False)(command)

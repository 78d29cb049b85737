"""``featherweight measure``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featherweight.cli.guard import AsJson, Debug
from featherweight.cli.options import Force, MaxBytes, TaskOption
from featherweight.cli.output import emit, say, show
from featherweight.cli.places import check_output

if TYPE_CHECKING:
    from featherweight.engines.compare import Comparison
    from featherweight.engines.engine import Precision


def measure(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .fwt file.")],
    engine: Annotated[
        list[str] | None,
        typer.Option(
            help="pytorch, pytorch-compiled, onnxruntime, openvino, litert, executorch, ncnn, tvm or c; again for "
            "more. pytorch, onnxruntime and openvino if none."
        ),
    ] = None,
    threads: Annotated[list[int] | None, typer.Option(min=1, help="Threads; again for more. 1 if not given.")] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Samples in a batch; again for more. 1 and 32 if not given.")
    ] = None,
    precision: Annotated[str, typer.Option(help="Of what is not quantized: float32 or bfloat16.")] = "float32",
    rounds: Annotated[int, typer.Option(min=1, help="Undisturbed rounds that are wanted.")] = 9,
    seconds: Annotated[float, typer.Option(min=0.01, help="How long each turn of a round takes.")] = 0.5,
    task: TaskOption = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write all that was measured to this file.")
    ] = None,
    max_bytes: MaxBytes = None,
    force: Force = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Measure a file's model beside the one it was made from: time, memory and bytes, on engines.

    Both models take turns, in processes of their own; rounds in which something else kept the machine busy are
    repeated. Exits with 1 if there is no engine on which both were measured, unless all asked take integers alone.
    Needs the optional extra "engines".
    """
    if save is not None:
        check_output(save, force)
    from featherweight import file as files
    from featherweight.cli.opening import limit, task_of
    from featherweight.cli.progress import Rounds
    from featherweight.engines import find
    from featherweight.engines.compare import USUAL, Watch, compare
    from featherweight.engines.measurement import Plan

    computed = _precision(precision)
    data = files.read(file)
    engines = [find(name) for name in engine] if engine else USUAL
    of = task_of(data, task)
    student, _ = files.load(data, of.architecture(), max_bytes=limit(max_bytes))
    with Rounds() as bar:
        found = compare(
            of,
            student,
            of.model(),
            engines,
            threads=threads or (1,),
            batches=batch or (1, 32),
            precision=computed,
            plan=Plan(rounds=rounds, seconds=seconds),
            watch=Watch(bar.say, bar.watch),
        )
    _tell(file, found, save, as_json)
    alone = found.settings and not any(each.capabilities.floats for each in engines)
    if not found.rows and not alone:
        say("error: no speed-up was measured: there is no engine on which both models ran")
        raise typer.Exit(1)


def _precision(name: str) -> "Precision":
    from featherweight.engines.engine import Precision

    try:
        return Precision(name)
    except ValueError:
        raise typer.BadParameter(f"--precision is {' or '.join(each.value for each in Precision)}") from None


def _tell(file: str, found: "Comparison", save: Path | None, as_json: bool) -> None:
    from featherweight import file as files
    from featherweight.report import measured

    record = {"file": file, "bytes": len(files.read(file)), **found.to_json()}
    if save is not None:
        files.save(save, (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())
    if as_json:
        emit(record)
        for each in found.settings:
            if each.measurement.disturbed:
                say(measured.disturbed(each))
    else:
        show(*measured.comparison(found), *([f"written to {save}"] if save is not None else []))

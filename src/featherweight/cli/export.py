"""``featherweight export``."""

from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli.guard import AsJson, Debug
from featherweight.cli.options import Force, MaxBytes, TaskOption
from featherweight.cli.output import emit, show
from featherweight.cli.places import check_output


def export(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .fwt file.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The file to write: .onnx for ONNX Runtime and OpenVINO, .tflite for LiteRT, .pte for ExecuTorch, "
            ".ncnn, .pt2 for PyTorch, .c for microcontrollers.",
        ),
    ],
    engine: Annotated[
        str | None, typer.Option(help="Of several whose files end alike: tensorrt's .onnx is another. Else the first.")
    ] = None,
    task: TaskOption = None,
    max_bytes: MaxBytes = None,
    force: Force = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a file's model for an engine that runs it.

    Weights that are integers times a scale, and quantized activations, stay integers; other weights are decoded.
    Files that end in .onnx need the optional extra "onnx", .pte "executorch", .ncnn "ncnn", and .tflite "litert" and
    its converter in an environment of its own; those in .c hold models that are quantized throughout.
    """
    check_output(output, force)
    from featherweight import file as files
    from featherweight.cli.opening import limit, task_of
    from featherweight.engines import engine_for, find
    from featherweight.engines.export import export as write
    from featherweight.report import figures

    chosen = find(engine) if engine else engine_for(output)
    data = files.read(file)
    of = task_of(data, task)
    student, _ = files.load(data, of.architecture(), max_bytes=limit(max_bytes))
    written = write(student, of.example(), output, chosen)
    most = "any batch size" if written.file.most is None else f"batches of up to {written.file.most}"
    batch = most if written.file.any_batch else "batches of the task's example alone"
    if as_json:
        emit({
            "file": str(output), "bytes": written.file.bytes, "engine": chosen.name, "task": of.name,
            "any_batch": written.file.any_batch, "most": written.file.most, "integers": list(written.integers),
            "decoded": list(written.numbers), "unsigned": written.file.unsigned,
        })  # fmt: skip
    else:
        weights = f"{len(written.integers)} weights as integers, {len(written.numbers)} decoded"
        show(f"{figures.size(written.file.bytes)}, {weights}, for {batch}, written to {output}")
        if written.file.notice:
            show(written.file.notice)

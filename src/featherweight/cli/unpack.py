"""``featherweight unpack``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli.guard import AsJson, Debug
from featherweight.cli.options import Force, MaxBytes, TaskOption
from featherweight.cli.output import emit, show
from featherweight.cli.places import check_output


def unpack(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .fwt file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The safetensors file to write.")],
    task: TaskOption = None,
    max_bytes: MaxBytes = None,
    force: Force = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write the decoded tensors of a file as safetensors, which any program reads.

    A tied tensor is written once, under its first name; its other names stand in the metadata, under "ties".
    """
    check_output(output, force)
    from safetensors.torch import save

    from featherweight import file as files
    from featherweight.cli.opening import architecture_of, limit
    from featherweight.report import figures

    data = files.read(file)
    contents = files.decode(data, architecture_of(data, task)[1], max_bytes=limit(max_bytes))
    tensors = {name: code.decode().contiguous() for name, code in contents.codes.items()}
    ties = {slot.name: list(slot.also) for slot in contents.slots if slot.also}
    size = files.save(output, save(tensors, {"ties": json.dumps(ties)} if ties else None))
    if as_json:
        emit({"file": str(output), "bytes": size, "tensors": len(tensors), "ties": ties})
    else:
        show(f"{len(tensors)} tensors, {figures.size(size)}, written to {output}")

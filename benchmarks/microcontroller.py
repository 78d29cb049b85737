"""What networks in C take of a microcontroller, bytes of code, constants and memory; and that they compute the same.

    python benchmarks/microcontroller.py [--samples 1000] [--cross "COMMAND"] [--json FILE]

Each network is exported as C and compiled with ``-std=c99 -Wall -Wextra -pedantic -Werror -Os`` by ``$CC`` or ``cc``:
``code`` is its ``.text``; ``constants`` is what is in read-only sections, of which ``weights`` are packed weights;
``memory`` is its static memory, the arena of activations, and beside it are the caller's ``input`` and ``output``.
``equal`` counts the samples whose outputs are those of the program of integers, bit for bit. ``--cross`` names
another compiler, such as one for a microcontroller, whose bytes are told too: with ``pip install ziglang``,
``python -m ziglang cc -target thumb-linux-musleabi -mcpu=cortex_m4``.

``resnet8`` is the CIFAR ResNet of depth 8 with random weights and norms set on training images: its bytes are those
of a trained one, and nothing is said of its quality. Needs the data.
"""

import argparse
import json
import shlex
import subprocess
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featherweight import file
from featherweight.architectures.resnet_cifar import ResNetCifar
from featherweight.core.compressed import Compressed
from featherweight.core.task import Task, call
from featherweight.engines import find as engine
from featherweight.engines.c import compiler
from featherweight.engines.c_source import c_source
from featherweight.engines.engine import Settings
from featherweight.engines.export import export
from featherweight.graph.lower import integer_program
from featherweight.run import run
from featherweight.search.precision import post_training
from featherweight.tasks import find

FLAGS = ("-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-Os")
EVIDENCE = Path(__file__).parents[1] / "evidence"


def resnet8(task: Task) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNetCifar(8)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        for batch in task.calibration_data():
            call(model.train(), batch)
    return model.eval()


def networks() -> dict[str, tuple[Task, Compressed]]:
    digits, cifar = find("digits"), find("cifar10-resnet20")
    small = replace(cifar, architecture=partial(ResNetCifar, 8), model=partial(resnet8, cifar))
    found = {
        "digits": (digits, run(digits.model(), digits, post_training())[0]),
        "resnet8": (small, run(small.model(), small, post_training())[0]),
    }
    for name in ("resnet20-w8a8", "resnet20-w4a8"):
        found[name] = (cifar, file.load((EVIDENCE / f"{name}.fwt").read_bytes(), cifar.architecture())[0])
    return found


def samples(task: Task, count: int) -> Tensor:
    assert task.evaluation is not None and task.selection is not None
    parts = [batch[0] for data in (task.evaluation(), task.selection(), task.calibration_data()) for batch in data]
    return torch.cat(parts)[:count]


def sections(command: list[str], source: Path, folder: Path) -> dict[str, int]:
    """Bytes of the sections of the compiled file, none of position-independent code."""
    made = folder / "network.o"
    subprocess.run([*command, *FLAGS, "-fno-pic", "-fno-pie", "-c", "-o", str(made), str(source)], check=True)
    told = subprocess.run(["size", "-A", str(made)], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in told.splitlines() if line.startswith(".")]
    sizes = {name: int(size) for name, size, *_ in rows}
    return {
        "code": sum(size for name, size in sizes.items() if name.startswith(".text")),
        "constants": sum(size for name, size in sizes.items() if name.startswith(".rodata")),
        "memory": sum(size for name, size in sizes.items() if name.startswith((".bss", ".data"))),
    }


def measured(task: Task, student: Compressed, count: int, cross: list[str]) -> dict[str, Any]:
    program, example, x = integer_program(student, task.example()), task.example(), samples(task, count)
    source = c_source(program, example)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = export(student, example, folder / "network.c", engine("c"))
        (outputs,) = engine("c").open(written.file.path, Settings()).run([x.numpy()])
        expected = torch.cat([program(part) for part in x.split(50)])
        equal = (torch.from_numpy(outputs) == expected).flatten(1).all(1)
        found = {"native": sections(compiler(), written.file.path, folder)}
        if cross:
            found["cross"] = sections(cross, written.file.path, folder)
    width = 1 if program.units[program.output].stored else 4
    return {
        **found,
        "weights": source.weights,
        "channels": source.channels,
        "arena": source.arena,
        "input": x[0].numel(),
        "output": expected[0].numel() * width,
        "samples": len(x),
        "equal": int(equal.sum()),
    }


def version(command: list[str]) -> str:
    return subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--cross", type=shlex.split, default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    record: dict[str, Any] = {"flags": list(FLAGS), "native": version(compiler())}
    if options.cross:
        record["cross"] = f"{version(options.cross)} {' '.join(x for x in options.cross if x.startswith('-mcpu'))}"
    record["networks"] = {}
    for name, (task, student) in networks().items():
        record["networks"][name] = found = measured(task, student, options.samples, options.cross)
        print(name, json.dumps(found), flush=True)
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

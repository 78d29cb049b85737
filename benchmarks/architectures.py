"""Eight bits on many architectures: compressed, saved, loaded, exported, and run beside its simulation.

    python benchmarks/architectures.py [--only NAME ...] [--engines onnxruntime openvino] [--json FILE]

Every architecture of ``tests/graph/zoo.py`` (our own definitions, and those of ``timm`` and ``transformers``, without
weights; ``pip install -e '.[zoo]'``), with random numbers everywhere, is brought to int8 weights and activations,
calibrated on random inputs, and written as a file:

- ``bytes`` of the file, ``float bytes`` of the weights before, and ``coded``, the share of parameters with a code;
- ``loaded``: the largest difference of what the file gives to what was saved, in parts of the largest output;
- for each engine: ``float``, the same of the float export beside PyTorch; ``snr`` of the int8 export beside its
  simulation, in dB, on other random inputs; ``integers`` of ``weights``, the coded weights that stay integers.

Each in a process of its own, with ten minutes. With ``--json``, a run that was stopped goes on from what is there.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from apart import answered
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from graph.zoo import ZOO, declare_torchvision  # noqa: E402
from graph.zoo_checks import difference, outputs, randomised  # noqa: E402

import featherweight as fw  # noqa: E402
from featherweight.core.compressed import Compressed  # noqa: E402
from featherweight.engines import find as engine  # noqa: E402
from featherweight.engines.arrays import arrays_of  # noqa: E402
from featherweight.engines.engine import Engine, Settings  # noqa: E402
from featherweight.engines.export import export  # noqa: E402
from featherweight.engines.parity import Parity, parity  # noqa: E402
from featherweight.graph.cut import tensors  # noqa: E402
from featherweight.search.precision import post_training  # noqa: E402

TIMEOUT = 600
ENGINES = ("onnxruntime", "openvino")
CALIBRATION, EVALUATION = 8, 8
"""Examples, each of a few samples."""


def child(name: str, engines: list[str]) -> dict[str, Any]:
    declare_torchvision()
    torch.manual_seed(0)
    entry, start = ZOO[name], time.perf_counter()
    model = entry.make()
    own = {key: each.clone() for key, each in tensors(model).items() if key not in model.state_dict()}
    randomised(model, torch.float32)
    for key, each in own.items():  # what no file holds, since the class computes it: frequencies, say
        tensors(model)[key].copy_(each)
    calibration, evaluation = ([entry.example() for _ in range(count)] for count in (CALIBRATION, EVALUATION))
    task = fw.Task(name, entry.make, lambda: model, entry.example, calibration=lambda: [e.args[0] for e in calibration])
    result = fw.compress(task, post_training())
    found: dict[str, Any] = {"float bytes": sum(each.numel() * 4 for each in model.state_dict().values())}
    student = result.student
    coded = sum(student.weight(weight).numel() for weight in student.codes)
    found["coded"] = round(coded / sum(p.numel() for p in model.parameters()), 4)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.fwt"
        found["bytes"] = result.save(path)
        loaded = fw.load(path, entry.make())
        found["loaded"] = max(difference(outputs(loaded, each), outputs(student, each)) for each in evaluation)
        for each in engines:
            try:
                found[each] = on(engine(each), model, student, evaluation, Path(folder))
            except fw.FeatherweightError as error:
                found[each] = {"failed": str(error)}
    return found | {"seconds": round(time.perf_counter() - start, 1)}


def on(reader: Engine, model: nn.Module, student: Compressed, evaluation: list[fw.Example], folder: Path) -> Any:
    path = folder / f"float{reader.suffix}"
    reader.export(model, evaluation[0], path)
    found: dict[str, Any] = {"float": beside(reader, path, model, evaluation).largest}
    path = folder / f"int8{reader.suffix}"
    written = export(student, evaluation[0], path, reader)
    weights = len(written.integers) + len(written.numbers)
    found |= {"snr": beside(reader, path, student, evaluation).snr, "integers": len(written.integers)}
    return found | {"weights": weights, "bytes": written.file.bytes}


def beside(reader: Engine, path: Path, model: nn.Module, evaluation: list[fw.Example]) -> Parity:
    runs = reader.open(path, Settings(threads=1))
    wanted = [[each.numpy() for each in outputs(model, example)] for example in evaluation]
    return parity(wanted, [runs.run(arrays_of(example)) for example in evaluation])


def told(found: dict[str, Any], engines: list[str]) -> str:
    if "failed" in found:
        return f"failed: {found['failed']}"
    parts = [f"{found['float bytes'] / found['bytes']:.2f} times smaller, coded {found['coded']:.1%}"]
    parts += [f"loaded {found['loaded']:.0e}", f"{found['seconds']:.0f} s"]
    for each in engines:
        row = found[each]
        if "failed" in row:
            parts.append(f"\n    {each}: failed: {row['failed']}")
        else:
            integers = f"{row['integers']} of {row['weights']} weights as integers"
            parts.append(f"\n    {each}: float {row['float']:.0e}, int8 {row['snr']:.1f} dB, {integers}")
    return ", ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ZOO, default=list(ZOO), metavar="NAME", help="some architectures")
    parser.add_argument("--engines", nargs="*", default=list(ENGINES))
    parser.add_argument("--json", type=Path, help="write all results here")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.child:
        print(json.dumps(child(options.only[0], options.engines)))
        return
    kept = options.json is not None and options.json.exists()
    results: dict[str, dict[str, Any]] = json.loads(options.json.read_text()) if kept else {}
    for name in [name for name in options.only if name not in results]:
        results[name] = answered(__file__, ["--child", "--only", name, "--engines", *options.engines], TIMEOUT)
        print(f"{name}: {told(results[name], options.engines)}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

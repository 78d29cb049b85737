"""The first minute of a user: ResNet-18 with random weights, a default int8 call of ours and of each peer.

    python benchmarks/first_minute.py [--rounds 9] [--save FILE.json]

For each: bytes on disk of what the tool gives (ours: the .fwt file, and the engine's file; peers: as their README saves
it), convolutions and linear layers touched, and time at batch 1, one thread, where the result is meant to run, beside
float32 there: ours and OpenVINO's in the engine, by turns in processes of their own; peers that give a PyTorch module
in PyTorch, by turns in this process. Random weights say nothing of accuracy. Peers that are not installed are named:
`pip install torchao nncf optimum-quanto` brings some.
"""

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import featherweight as fw
from featherweight.core.compressed import Compressed
from featherweight.engines import find as engine
from featherweight.engines.engine import Settings
from featherweight.engines.export import export
from featherweight.engines.measure import Contender, measure
from featherweight.engines.measurement import Plan
from featherweight.search.precision import post_training


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        same = stride == 1 and inputs == outputs
        self.downsample = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu(inner + self.downsample(x))
        return out


class ResNet18(nn.Module):
    """He et al. 2015, arXiv 1512.03385, table 1: 11,689,512 parameters."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [Block(64, 64, 1), Block(64, 64, 1)]
        for inputs, outputs in ((64, 128), (128, 256), (256, 512)):
            blocks += [Block(inputs, outputs, 2), Block(outputs, outputs, 1)]
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(512, 1000)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.blocks(self.pool(self.stem(x)))
        logits: Tensor = self.fc(maps.mean((2, 3)))
        return logits


def resnet18() -> ResNet18:
    """Random weights, and norms' statistics as after training."""
    torch.manual_seed(0)
    model = ResNet18()
    with torch.no_grad():
        model.train()
        for _ in range(3):
            model(torch.randn(8, 3, 224, 224))
    return model.eval()


def ours(model: nn.Module, data: list[Tensor], folder: Path, plan: Plan) -> dict[str, Any]:
    start = time.perf_counter()
    result = fw.compress(model, post_training(), example=data[0], calibration=data)
    size = result.save(folder / "ours.fwt")
    seconds = time.perf_counter() - start
    rows: dict[str, Any] = {
        "fwt": size,
        "seconds": seconds,
        "touched": len([n for n in result.student.codes if "weight" in n]),
    }
    for name in ("onnxruntime", "openvino"):
        where = engine(name)
        result.export(folder / "ours.onnx", where)
        export(Compressed(model), result.task.example(), folder / "float.onnx", where)
        contenders = [Contender(each, name, folder / f"{each}.onnx", Settings(1)) for each in ("float", "ours")]
        found = measure(contenders, [data[0].numpy()], "float", plan)
        ratio = found.ratio("ours")
        rows[name] = {
            "file": (folder / "ours.onnx").stat().st_size,
            "float ms": found.timing("float").p50,
            "ms": found.timing("ours").p50,
            "ratio": [ratio.median, ratio.low, ratio.high],
            "disturbed": found.disturbed,
        }
    return rows


def torchao(model: nn.Module, data: list[Tensor]) -> nn.Module:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model, Int8WeightOnlyConfig())
    return model


def nncf(model: nn.Module, data: list[Tensor]) -> nn.Module:
    import nncf as package

    quantized: nn.Module = package.quantize(model, package.Dataset(data))
    return quantized


def quanto(model: nn.Module, data: list[Tensor]) -> nn.Module:
    from optimum.quanto import Calibration, freeze, qint8, quantize

    quantize(model, weights=qint8, activations=qint8)
    with Calibration():
        for x in data:
            model(x)
    freeze(model)
    return model


PEERS: dict[str, Callable[[nn.Module, list[Tensor]], nn.Module]] = {"torchao": torchao, "nncf": nncf, "quanto": quanto}


def touched(before: nn.Module, after: nn.Module) -> int:
    """Convolutions and linear layers whose class, or whose weight's, is another, or that have more state than before.

    State that a tool keeps elsewhere counts where its name holds the layer's.
    """
    theirs = dict(after.named_modules())
    new = [key.replace("/", ".").replace(":", ".") for key in after.state_dict().keys() - before.state_dict().keys()]
    changed = 0
    for name, layer in before.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            other = theirs.get(name)
            same = other is not None and type(other) is type(layer) and type(other.weight) is type(layer.weight)
            changed += not same or any(f"{name}." in key for key in new)
    return changed


@torch.no_grad()
def peer(
    make: Callable[[nn.Module, list[Tensor]], nn.Module], model: nn.Module, data: list[Tensor], folder: Path, plan: Plan
) -> dict[str, Any]:
    start = time.perf_counter()
    made = make(copy.deepcopy(model), data)
    seconds = time.perf_counter() - start
    torch.save(made.state_dict(), folder / "peer.pt")
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(plan.rounds + 1):
        for module, kept in zip((model, made), times, strict=True):
            begin = time.perf_counter()
            module(data[0])
            if number:
                kept.append(1e3 * (time.perf_counter() - begin))
    ratios = sorted(a / b for a, b in zip(*times, strict=True))
    return {
        "bytes": (folder / "peer.pt").stat().st_size,
        "seconds": seconds,
        "touched": touched(model, made),
        "float ms": median(times[0]),
        "ms": median(times[1]),
        "ratio": [median(ratios), ratios[0], ratios[-1]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan = Plan(rounds=options.rounds, seconds=0.3, warmup=0.3)
    model, data = resnet18(), [torch.randn(1, 3, 224, 224) for _ in range(32)]
    layers = sum(isinstance(each, nn.Conv2d | nn.Linear) for each in model.modules())
    record: dict[str, Any] = {"layers": layers}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(model.state_dict(), folder / "float.pt")
        record["float bytes"] = (folder / "float.pt").stat().st_size
        record["ours"] = ours(model, data, folder, plan)
        for label, make in PEERS.items():
            try:
                record[label] = peer(make, model, data, folder, plan)
            except ImportError as error:
                record[label] = {"missing": str(error)}
            except Exception as error:  # a peer's own failure is a result
                record[label] = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    show(record)
    if options.save:
        options.save.write_text(json.dumps(record, indent=1) + "\n")


def show(record: dict[str, Any]) -> None:
    table = Table("tool", "bytes on disk", "layers touched", "runs in", "float ms", "ms", "speed over float", "call s")
    table.add_row("float32", f"{record['float bytes']:,}", f"of {record['layers']}", "", "", "", "", "")
    found = record["ours"]
    for name in ("onnxruntime", "openvino"):
        row = found[name]
        sizes = f"{found['fwt']:,} (.fwt), {row['file']:,} (.onnx)"
        table.add_row("featherweight", sizes, str(found["touched"]), name, *_times(row), f"{found['seconds']:.0f}")
    for label in PEERS:
        row = record[label]
        if "bytes" in row:
            table.add_row(
                label, f"{row['bytes']:,}", str(row["touched"]), "pytorch", *_times(row), f"{row['seconds']:.0f}"
            )
        else:
            table.add_row(label, "not installed" if "missing" in row else row["failed"], "", "", "", "", "", "")
    Console(width=170).print(table)


def _times(row: dict[str, Any]) -> tuple[str, str, str]:
    ratio = "{:.2f} [{:.2f}, {:.2f}]".format(*row["ratio"])
    return f"{row['float ms']:.1f}", f"{row['ms']:.1f}", ratio + (" disturbed" if row.get("disturbed") else "")


if __name__ == "__main__":
    main()

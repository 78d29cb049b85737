"""PyTorch models as ncnn networks, by ncnn's converter pnnx, which runs as a program of its own."""

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from featherweight.core.errors import EngineError, reason_of
from featherweight.core.quiet import quiet
from featherweight.core.task import Example
from featherweight.engines.ncnn import ADVICE
from featherweight.engines.packages import needed
from featherweight.engines.process import ending

SECONDS = 600.0
"""That the converter has."""
TYPES = {torch.float32: "f32", torch.int64: "i64", torch.int32: "i32", torch.bool: "i8"}
TAIL = 500
"""Characters of the end of what the converter says that an error quotes."""


@dataclass(frozen=True)
class Network:
    """What ncnn reads: ``param``, its layers as text, and ``weights``, the ``.bin`` beside it, in the layers' order."""

    param: str
    weights: bytes


class _Flat(nn.Module):
    """A model as TorchScript knows them: tensors in order, and a tensor or a tuple of them out."""

    def __init__(self, model: fx.GraphModule, example: Example) -> None:
        super().__init__()
        self.model, self.example = model, example

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        given = iter(tensors)
        args, kwargs = tree_map_only(Tensor, lambda _: next(given), (self.example.args, self.example.kwargs))
        leaves = tuple(each for each in tree_leaves(self.model(*args, **kwargs)) if isinstance(each, Tensor))
        return leaves[0] if len(leaves) == 1 else leaves


def network(model: fx.GraphModule, example: Example) -> Network:
    """Convert a model with an example of one sample; weights stay float32.

    The converter takes TorchScript. It can crash, hang, and write layers that ncnn does not have: the first two are an
    ``EngineError`` here, the last is for whoever opens the network.
    """
    package = needed("pnnx", "ncnn")
    inputs = [each for each in tree_leaves((example.args, example.kwargs)) if isinstance(each, Tensor)]
    shapes = ",".join(f"[{','.join(map(str, x.shape))}]{_type(x)}" for x in inputs)
    with tempfile.TemporaryDirectory(prefix="featherweight-") as name:
        folder = Path(name)
        _save(_Flat(model, example), inputs, folder / "model.pt")
        said = _run([str(package.EXEC_PATH), "model.pt", f"inputshape={shapes}", "fp16=0"], folder)
        param, weights = folder / "model.ncnn.param", folder / "model.ncnn.bin"
        if not (param.exists() and weights.exists()):
            raise EngineError(f"pnnx wrote no network{_end(said)}; {ADVICE}")
        made = Network(param.read_text(), weights.read_bytes())
    missing = _missing(made.param)
    if missing:
        raise EngineError(f"ncnn has no layer for {missing}; {ADVICE}")
    return made


def prepare(model: fx.GraphModule) -> None:
    """Write, in place, what the converter does not take in other operators: ``x[:, :, ::2]`` of images is a pooling."""
    for node in list(model.graph.nodes):
        if node.target is not torch.ops.aten.slice.Tensor or len(node.args) < 5:
            continue
        x, dim, start, _, step = node.args
        shape = x.meta["val"].shape
        if step > 1 and len(shape) == 4 and dim in (2, 3) and start == 0 and node.args[3] >= shape[dim]:
            with model.graph.inserting_before(node):
                strides = [step if each == dim else 1 for each in (2, 3)]
                pooled = model.graph.call_function(torch.ops.aten.max_pool2d.default, (x, [1, 1], strides))
                pooled.meta = node.meta
            node.replace_all_uses_with(pooled)
            model.graph.erase_node(node)
    model.recompile()


def _missing(param: str) -> str | None:
    """The first layer that the converter had to leave as an operator of PyTorch; ncnn's own are called in letters."""
    kinds = (line.split()[0] for line in param.splitlines()[2:] if line.strip())
    return next((kind for kind in kinds if not kind.isalnum()), None)


def _type(x: Tensor) -> str:
    if x.dtype not in TYPES:
        raise EngineError(f"pnnx takes no inputs of {x.dtype}; {ADVICE}")
    return TYPES[x.dtype]


def _save(model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
    try:
        with quiet(), torch.no_grad():
            torch.jit.trace(model, tuple(inputs), check_trace=False).save(str(path))  # type: ignore[no-untyped-call]
    except Exception as error:
        reason = reason_of(error)
        raise EngineError(f"the model cannot be written as TorchScript for pnnx ({reason}); {ADVICE}") from error


def _run(command: list[str], folder: Path) -> str:
    """What the program says; its end is waited for."""
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"pnnx did not end within {SECONDS:g} s; {ADVICE}") from error
    except OSError as error:
        raise EngineError(f"pnnx cannot be run ({reason_of(error)}); install featherweight[ncnn] anew") from error
    said = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode:
        raise EngineError(f"pnnx ended {ending(done.returncode)}{_end(said)}; {ADVICE}")
    return said


def _end(said: str) -> str:
    text = " ".join(said[-TAIL:].split())
    return f": {text}" if text else ""

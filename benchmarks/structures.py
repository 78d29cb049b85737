"""Cutting a third of the channels of many architectures, beside Torch-Pruning.

    python benchmarks/structures.py [--only NAME] [--json benchmarks/results/structures.json]

For every architecture of ``tests/graph/zoo.py`` (our own definitions, and those of ``timm`` and ``transformers``,
without weights; ``pip install timm==1.0.31 torch-pruning==1.6.1``), with random numbers everywhere, in float64:

- ours: about a third of the labels of every group go, at random. ``error`` is the largest difference of the cut model
  to the masked one, in parts of the largest output; ``form`` says whether the model's own class or its graph was cut;
- Torch-Pruning: ``BasePruner`` with random importance and a ratio of a third, told which layers give the outputs, and
  nothing else of the model. ``error`` is the same, against the original with all slices masked that it says it cuts;
  of convolutions in groups and recurrent layers it is not known which ones these are, and nothing is judged;
- ``reach`` is the share of parameters, without embeddings, in a dimension that can be cut: for Torch-Pruning, that lie
  in a dimension of one of its groups; ``left`` the share of parameters after the cut.

Each in a process of its own, with two minutes. With ``--json``, a run that was stopped goes on from what is there.
"""

import argparse
import copy
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from apart import answered
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from graph.zoo import ZOO, declare_torchvision  # noqa: E402
from graph.zoo_checks import cast, cut_a_third, difference, outputs, randomised  # noqa: E402

from featherweight.core.task import Example  # noqa: E402
from featherweight.graph.edits import walk  # noqa: E402
from featherweight.graph.rewrite import CutGraph  # noqa: E402

TIMEOUT = 120
TOOLS = ("featherweight", "torch-pruning")


def ours(model: nn.Module, example: Example) -> dict[str, Any]:
    before = count(model)
    found = cut_a_third(model, example)
    form = "graph" if isinstance(found.edits[-1], CutGraph) else "class"
    return {"error": found.error, "reach": found.reach, "left": count(found.small) / before, "form": form}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def theirs(model: nn.Module, example: Example) -> dict[str, Any]:
    import torch_pruning as tp

    before, masked = count(model), copy.deepcopy(model)
    names = {module: name for name, module in model.named_modules()}
    loose = {id(parameter): name for name, parameter in model.named_parameters()}
    last = [model.get_submodule(name) for name in outermost(model, example)]
    pruner = tp.pruner.BasePruner(
        model, example.args, tp.importance.RandomImportance(), pruning_ratio=1 / 3, ignored_layers=last
    )
    reached = set()
    for group in pruner.DG.get_all_groups(ignored_layers=last, root_module_types=pruner.root_module_types):
        reached |= {id(p) for item in group for p in parameters_of(item.dep.target.module)}
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    sizes = {id(p): p.numel() for p in model.parameters() if id(p) not in embeddings}
    reach = sum(size for key, size in sizes.items() if key in reached) / sum(sizes.values())
    alive: dict[tuple[str, bool], list[int]] = {}
    judged = True
    for group in pruner.step(interactive=True):
        for item in group:
            try:
                judged &= mask(masked, item, names, loose, alive)
            except IndexError:  # its numbers are not those of channels, as we count them
                judged = False
        group.prune()
    cut = outputs(model, example)
    error = difference(cut, outputs(masked, example)) if judged else None
    return {"error": error, "reach": reach, "left": count(model) / before}


def parameters_of(module: Any) -> list[Tensor]:
    return list(module.parameters()) if isinstance(module, nn.Module) else [module]


def outermost(model: nn.Module, example: Example) -> list[str]:
    """Layers whose outputs nobody may cut, while their inputs may be: a user would list them."""
    walked = walk(model, example)
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) and f"{name}.weight" in walked.stored:
            block = walked.stored[f"{name}.weight"].block(0)
            if block is not None and walked.union.all_frozen(block[1]):
                found.append(name)
    return found


def mask(
    model: nn.Module,
    item: Any,
    names: dict[nn.Module, str],
    loose: dict[int, str],
    alive: dict[tuple[str, bool], list[int]],
) -> bool:
    """Zero what one item of a group cuts; whether it is known what that is.

    ``alive`` holds the first numbers of the channels that a layer has left, of its outputs and of its inputs: items
    count those that are left.
    """
    target, how = item.dep.target.module, item.dep.handler.__name__
    outs = "out" in how
    if not isinstance(target, nn.Module):
        dim = item.dep.handler.__self__.pruning_dim
        tensor = model.get_parameter(loose[id(target)])
        tensor.data.index_fill_(dim, torch.tensor(_first(alive, loose[id(target)], outs, item, tensor.shape[dim])), 0)
        return True
    if target not in names:
        return True  # of its graph's own: a split, a reshape
    module = model.get_submodule(names[target])
    groups = getattr(module, "groups", 1)
    depthwise = groups > 1 and groups == getattr(module, "out_channels", 0)
    if isinstance(module, nn.RNNBase) or (groups > 1 and not depthwise):
        return False
    both = depthwise or isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.PReLU | nn.GroupNorm)
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        if not tensor.is_floating_point() or (tensor.ndim == 1 and not outs and not both):
            continue
        swapped = isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d)
        dim = 0 if tensor.ndim == 1 or both else 1 if isinstance(module, nn.Embedding) else int(outs == swapped)
        at = _first(alive, names[target], outs or both, item, tensor.shape[dim], tensor.data_ptr())
        tensor.data.index_fill_(dim, torch.tensor(at), 0)
    return True


def _first(
    alive: dict[tuple[str, bool], list[int]], name: str, outs: bool, item: Any, size: int, tensor: int = 0
) -> list[int]:
    """The first numbers of the channels of an item, which then are gone."""
    left = alive.setdefault((f"{name} {tensor}", outs), list(range(size)))
    gone = [left[index] for index in item.idxs]
    alive[f"{name} {tensor}", outs] = [channel for channel in left if channel not in set(gone)]
    return gone


def child(tool: str, name: str) -> dict[str, Any]:
    declare_torchvision()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = randomised(ZOO[name].make())
    example = cast(ZOO[name].example())
    start = time.perf_counter()
    found = (ours if tool == TOOLS[0] else theirs)(model, example)
    return found | {"seconds": round(time.perf_counter() - start, 1)}


def told(found: dict[str, Any]) -> str:
    if "failed" in found:
        return f"failed: {found['failed'][:60]}"
    error = found["error"]
    equal = "runs, not judged" if error is None else f"{'equal' if error <= 1e-9 else 'NOT EQUAL'} {error:.0e}"
    return f"{equal}, reach {found['reach']:.0%}, left {found['left']:.0%}, {found['seconds']} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=ZOO, help="one architecture")
    parser.add_argument("--json", type=Path, help="write all results here")
    parser.add_argument("--child", choices=TOOLS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.child:
        print(json.dumps(child(options.child, options.only)))
        return
    kept = options.json is not None and options.json.exists()
    results: dict[str, dict[str, Any]] = json.loads(options.json.read_text()) if kept else {}
    for name in [options.only] if options.only else [name for name in ZOO if name not in results]:
        results[name] = {tool: answered(__file__, ["--child", tool, "--only", name], TIMEOUT) for tool in TOOLS}
        print(f"{name}\n" + "".join(f"  {tool}: {told(results[name][tool])}\n" for tool in TOOLS), end="", flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")
    for tool in TOOLS:
        done = [each[tool] for each in results.values() if "failed" not in each[tool]]
        unjudged = sum(each["error"] is None for each in done)
        equal = sum(each["error"] is not None and each["error"] <= 1e-9 for each in done)
        print(f"{tool}: of {len(results)}, {len(done)} run; cut equals masked on {equal}, not judged on {unjudged}")


if __name__ == "__main__":
    main()

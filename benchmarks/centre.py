"""The proof that the centre holds: six unlike methods as short recipes on the digits network.

    python benchmarks/centre.py [--json]

One row a recipe: coded bytes of the state (activation quantizers are not stored), errors among the held-out digits of
parent and student, what is special, lines of the recipe's file. Minutes on two cores; seeds are the recipes' own.
"""

import argparse
import inspect
import json
import time

from rich.console import Console
from rich.table import Table

from featherweight.core.compressed import Compressed
from featherweight.core.metric import Full
from featherweight.core.stage import Recipe
from featherweight.core.task import Task, measure
from featherweight.file import state_codes, stream_bits
from featherweight.graph.edits import walk
from featherweight.metrics.hessian import InputMoment
from featherweight.papers import deep_compression, filter_pruning_l1, gptq, lc_low_rank, lsq, xnor_net
from featherweight.run import run
from featherweight.schemes.uniform import Fit, PerChannel, Uniform
from featherweight.solvers.sweep import ColumnSweep
from featherweight.tasks import find


def special(name: str, student: Compressed, task: Task) -> str:
    """The mechanism of the method, seen at work."""
    match name:
        case "gptq":
            return f"output error {swept(task):.2f} of rounding to nearest"
        case "lsq":
            steps = [float(tap.step.detach()) for tap in student.taps.values()]
            return "input steps " + ", ".join(f"{step:.3f}" for step in steps)
        case "filter-pruning-l1":
            before = sum(p.numel() for p in task.architecture().parameters())
            after = sum(p.numel() for p in student.base.parameters())
            return f"{after:,} of {before:,} parameters"
        case "lc-low-rank":
            return "ranks " + ", ".join(str(code.rank) for code in student.codes.values())
        case "xnor-net":
            return f"{sum(c.levels.numel() for c in student.codes.values()):,} binary weights"
        case _:
            left = sum(int(code.decode().count_nonzero()) for code in student.codes.values())
            return f"{left:,} non-zero"


def swept(task: Task, bits: int = 3) -> float:
    """``tr ΔHΔᵀ`` after the sweep over that of rounding, the geometric mean over layers of the dense model."""
    student = Compressed(task.model()).eval()
    scheme = Uniform(bits, granularity=PerChannel(), fit=Fit.SEARCH)
    product, count = 1.0, 0
    for name in [name for name, names in student.names.items() if student.parameter(name).ndim > 1]:
        metric = InputMoment().measure(student, [name], task)[name]
        assert isinstance(metric, Full)
        w = student.parameter(name).detach()
        code = ColumnSweep().project(scheme, w, metric)
        product *= float(metric.distance(w, code.decode()) / metric.distance(w, scheme.project(w).decode()))
        count += 1
    return product ** (1 / count)


def row(recipe: Recipe, module: object, task: Task) -> dict[str, object]:
    model = task.model()
    start = time.perf_counter()
    student, _ = run(model, task, recipe)
    seconds = time.perf_counter() - start
    samples = task.evaluation().samples
    wrong = [round(samples * (1 - measure(m, task.evaluation(), task.quality) / 100)) for m in (model, student)]
    bits = sum(sum(stream_bits(code).values()) for code in state_codes(student).values())
    return {
        "recipe": recipe.name,
        "bytes": round(bits / 8),
        "dense errors": wrong[0],
        "errors": wrong[1],
        "samples": samples,
        "mechanism": special(recipe.name, student, task),
        "lines": len(inspect.getsource(module).splitlines()),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    task = find("digits")
    modules = (deep_compression, gptq, lsq, filter_pruning_l1, lc_low_rank, xnor_net)
    rows = [row(module.recipe(task.name), module, task) for module in modules]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    table = Table(*rows[0])
    for each in rows:
        table.add_row(*map(str, each.values()))
    Console().print(table)
    print(
        f"barriers in the digits network: {walk(task.architecture().eval(), task.example()).labels.barriers or 'none'}"
    )


if __name__ == "__main__":
    main()

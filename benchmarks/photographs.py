"""EfficientNet-Lite0's small file on photographs: its bytes, its agreement with the float model, and what it loses.

    python benchmarks/photographs.py [--price PRICE ...] [--json FILE]

The file is that of ``featherweight compress imagenet-lite0 --recipe watersic``, at the task's price of a bit or those
that are given. "Agreement" is the share of the 400 photographs that were not calibrated on for which both models name
the same class. "Net loss" is, in points, how many more photographs the float model gets right, with the 95 % interval
of a difference of paired shares: ``d ± 1.96 √(b + c − (b − c)²/n) / n`` of ``b`` lost and ``c`` won, and McNemar's p.
The model has seen these photographs in its training: the figures compare it with its parent and forecast no accuracy.
"""

import argparse
import json
from dataclasses import asdict
from math import sqrt
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

import featherweight as fw
from featherweight.core.task import Task, call
from featherweight.file import Claims
from featherweight.papers import watersic
from featherweight.result import mcnemar
from featherweight.tasks import find

TASK = "imagenet-lite0"


@torch.no_grad()
def agreement(one: nn.Module, other: nn.Module, task: Task) -> float:
    """The share of evaluation samples for which both models name the same class."""
    assert task.evaluation is not None
    same = [call(one, batch).argmax(1) == call(other, batch).argmax(1) for batch in task.evaluation()]
    return float(torch.cat(same).float().mean())


def net_loss(claims: Claims) -> tuple[float, float, float]:
    """``(parent − model) / n`` in points, and the ends of its 95 % interval (Wald's, of paired shares)."""
    lost, won, n = claims.lost, claims.won, claims.samples
    loss, spread = (lost - won) / n, 1.96 * sqrt(lost + won - (lost - won) ** 2 / n) / n
    return 100 * loss, 100 * (loss - spread), 100 * (loss + spread)


def row(price: float) -> dict[str, Any]:
    task, start = find(TASK), perf_counter()
    result = fw.compress(task, watersic.recipe(TASK, price=price))
    claims = result.claims
    assert claims is not None
    return {
        "price": price,
        "bytes": result.size,
        "agreement": agreement(task.model(), result.model, task),
        "claims": asdict(claims),
        "won": claims.won,
        "net loss": net_loss(claims),
        "p": mcnemar(claims),
        "seconds": perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--price", nargs="+", type=float, default=[watersic.PRICES[TASK]])
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    rows = []
    for price in options.price:
        found = row(price)
        rows.append(found)
        loss = "{:.2f} [{:.2f}, {:.2f}]".format(*found["net loss"])
        print(
            f"price {price:g}: {found['bytes']:,} bytes, agreement {100 * found['agreement']:.1f} %, "
            f"{found['claims']['lost']} lost and {found['won']} won of {found['claims']['samples']}: "
            f"net loss {loss} points, p = {found['p']:.2f}; {found['seconds']:.0f} s",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps({"task": TASK, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

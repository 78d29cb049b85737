"""A training step with learned steps beside the float step, and both orders of images: ResNet-20, batch 128, by turns.

    python benchmarks/training.py [--threads 2] [--rounds 9]

All train the same network by the same parts: forward, backward, SGD. Weights and inputs of all layers are quantized
to 4 bits with learned steps. The loop gives images channels last to models that take them so; beside it is the usual
order, as in PyTorch's own examples. Ratios are paired by round. In bfloat16 too where the processor has AVX-512.
"""

import argparse
import time
from statistics import median

import torch
import torch.nn.functional as F

from featherweight.activations.rules import LearnedSteps
from featherweight.architectures.resnet_cifar import ResNetCifar
from featherweight.core.compressed import Compressed
from featherweight.core.processor import halves
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Learn, Stage
from featherweight.core.task import Example, Task, channels_last
from featherweight.run import project_sites
from featherweight.schemes.uniform import PerChannel, Uniform

LEARNED = "learned steps"


def student(quantized: bool, x: torch.Tensor) -> Compressed:
    model = ResNetCifar(20)
    made = Compressed(model).train()
    task = Task("steps", lambda: model, lambda: model, lambda: Example((x[:1],)), calibration=lambda: [x])
    sites = {}
    if quantized:
        scheme = Uniform(4, granularity=PerChannel())
        made.tap(LearnedSteps(bits=4).taps(made, task))
        names = [name for name in made.names if made.parameter(name).ndim > 1]
        project_sites(made, task, Stage("steps", {WEIGHTS: scheme}), dict.fromkeys(names, scheme))
        sites = dict.fromkeys(names, Learn.BOTH)
    made.learn(sites)
    return made.train()


def step(
    model: Compressed, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor, bfloat16: bool
) -> float:
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    x, y = torch.randn(128, 3, 32, 32), torch.randint(0, 10, (128,))
    orders = {"usual order": x, "channels last": channels_last(x)}
    for bfloat16 in (False, True) if halves(x.device) else (False,):
        models = {name: student(name == LEARNED, x) for name in ("float", LEARNED)}
        optimizers = {
            name: torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3)
            for name, model in models.items()
        }
        times: dict[tuple[str, str], list[float]] = {(name, order): [] for name in models for order in orders}
        for number in range(options.rounds + 2):
            for (name, order), kept in times.items():
                seconds = step(models[name], optimizers[name], orders[order], y, bfloat16)
                if number > 1:
                    kept.append(seconds)
        kind = "bfloat16" if bfloat16 else "float32"
        for (name, order), kept in times.items():
            print(f"{kind}, {name}, {order}: {1e3 * median(kept):.0f} ms a step")
        for order in orders:
            print(f"{kind}, {order}: learned steps over float {ratio(times[LEARNED, order], times['float', order])}")
        for name in models:
            print(
                f"{kind}, {name}: channels last over usual order "
                f"{ratio(times[name, 'channels last'], times[name, 'usual order'])}"
            )


def ratio(times: list[float], others: list[float]) -> str:
    found = sorted(a / b for a, b in zip(times, others, strict=True))
    return f"{median(found):.2f} times ({found[0]:.2f} to {found[-1]:.2f})"


if __name__ == "__main__":
    main()

"""A training step with learned steps beside the float step: ResNet-20, batch 128, by turns.

    python benchmarks/training.py [--threads 2] [--rounds 9]

Both train the same network by the same parts: forward, backward, SGD. Weights and inputs of all layers are quantized
to 4 bits with learned steps. The ratio is paired by round.
"""

import argparse
import time
from statistics import median

import torch
import torch.nn.functional as F

from featherweight.activations.rules import LearnedSteps
from featherweight.architectures.resnet_cifar import ResNetCifar
from featherweight.core.compressed import Compressed
from featherweight.core.site import WEIGHTS
from featherweight.core.stage import Learn, Stage
from featherweight.core.task import Example, Task
from featherweight.run import project_sites
from featherweight.schemes.uniform import PerChannel, Uniform


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
    for bfloat16 in (False, True):
        models = [student(quantized, x) for quantized in (False, True)]
        optimizers = [torch.optim.SGD([p for p in m.parameters() if p.requires_grad], 1e-3) for m in models]
        times: list[list[float]] = [[], []]
        for number in range(options.rounds + 2):
            for model, optimizer, kept in zip(models, optimizers, times, strict=True):
                seconds = step(model, optimizer, x, y, bfloat16)
                if number > 1:
                    kept.append(seconds)
        ratios = sorted(b / a for a, b in zip(*times, strict=True))
        kind = "bfloat16" if bfloat16 else "float32"
        print(
            f"{kind}: float {1e3 * median(times[0]):.0f} ms, learned steps {1e3 * median(times[1]):.0f} ms a step, "
            f"{median(ratios):.2f} times ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()

"""Does mixing feature maps before the cut help? Circulant mixtures against the maps as they are, without learning.

    python benchmarks/compact.py [--task mnist-lenet300] [--shares 0.3 0.5]

Both keep the maps of the most energy, at the same sizes, and fit what reads them by least squares; accuracy in percent
on the selection data.
"""

import argparse

from featherweight.core.task import measure
from featherweight.papers import redcnn
from featherweight.run import run
from featherweight.tasks import find


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="mnist-lenet300")
    parser.add_argument("--shares", type=float, nargs="+", default=(0.3, 0.5))
    given = parser.parse_args()
    task = find(given.task)
    assert task.selection is not None
    print(f"| {given.task}, cut | mixed, accuracy % | as they are, accuracy % |\n|---|---|---|")
    for share in given.shares:
        found = []
        for circulant in (True, False):
            recipe = redcnn.recipe(given.task, share=share, circulant=circulant, epochs=0)
            student, _ = run(task.model(), task, recipe)
            found.append(measure(student, task.selection(), task.quality))
        print(f"| {share:.0%} | {found[0]:.2f} | {found[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()

"""Reads every kept hostile file, and mutations of a good one, under a limit of memory; run by ``test_hostile``."""

import random
import resource
import sys
from pathlib import Path

HERE = Path(__file__).parent
MORE = 300 << 20


def main() -> None:
    sys.path.insert(0, str(HERE))
    import torch

    torch.set_num_threads(1)
    from victim import USERS, loads, resealed, unpacks

    loads(USERS), unpacks(USERS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MORE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    files = [path.read_bytes() for path in sorted((HERE / "files").iterdir())]
    dice = random.Random(3)
    for _ in range(1000):
        attack = bytearray(USERS)
        attack[dice.randrange(5, len(attack) - 4)] = dice.randrange(256)
        files.append(resealed(bytes(attack)))
    accepted = sum(loads(data) | unpacks(data) for data in files)
    print(len(files) - accepted, "of", len(files), "refused")


if __name__ == "__main__":
    main()

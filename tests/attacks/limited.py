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
    from make import bomb
    from victim import FILES, TAPPED, USERS, loads, resealed, unpacks

    loads(TAPPED), unpacks(TAPPED)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MORE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    files = [path.read_bytes() for path in sorted((HERE / "files").iterdir())]
    files += [bomb(piece, 1 << power) for piece in ("[],", '{"":0},', '"ab",', "[[[]]],") for power in (24, 26)]
    dice = random.Random(3)
    for number in range(200):
        attack = bytearray((USERS, TAPPED, FILES["tapped, plain"])[number % 3])
        attack[dice.randrange(5, len(attack) - 4)] = dice.randrange(256)
        files.append(resealed(bytes(attack)))
    accepted = sum(loads(data) | unpacks(data) for data in files)
    print(len(files) - accepted, "of", len(files), "refused")


if __name__ == "__main__":
    main()

"""The evidence files against the bound: bytes beside the order-0 entropies of their streams.

    python benchmarks/files.py [FILE...]

"order 0" is the sum over tensors of the order-0 entropies of all streams, side values (floats) at their stored width;
"besides" is what the file takes beyond its streams: envelope, header, layouts.
"""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from featherweight import file
from featherweight.cli.opening import task_of
from featherweight.search.allocation import order_zero_bits

EVIDENCE = Path(__file__).resolve().parents[1] / "evidence"


def row(path: Path) -> tuple[str, ...]:
    data = path.read_bytes()
    task = task_of(data, None)
    codes = file.decode(data, task.architecture()).codes.values()
    streams = sum(sum(file.stream_bits(code).values()) for code in codes) / 8
    bound = sum(map(order_zero_bits, codes)) / 8
    over = f"{100 * (streams / bound - 1):+.2f} %"
    return path.stem, f"{len(data):,}", f"{streams:,.0f}", f"{bound:,.0f}", over, f"{len(data) - streams:.0f}"


def main() -> None:
    table = Table("file", "bytes", "streams", "order 0", "over", "besides")
    for path in [Path(name) for name in sys.argv[1:]] or sorted(EVIDENCE.glob("*.fwt")):
        table.add_row(*row(path))
    Console().print(table)


if __name__ == "__main__":
    main()

"""What importing Featherweight costs: seconds, each in a fresh interpreter, the statements in turn in every round.

Run ``python benchmarks/startup.py [--rounds N] [--json]``. "beyond torch" is the median of the difference to
``import torch`` of the same round. The first round, which fills caches, is left out.
"""

import argparse
import json
import statistics
import subprocess
import sys

STATEMENTS = {
    "python alone": "pass",
    "import torch": "import torch",
    "import featherweight": "import featherweight",
    "all public names": "import featherweight as fw; [getattr(fw, name) for name in fw.__all__]",
    "all built-in tasks": "import featherweight.tasks",
    "featherweight --version": "import featherweight.cli.main",
}
MEASURE = "import time; start = time.perf_counter(); exec({!r}); print(time.perf_counter() - start)"


def seconds(statement: str) -> float:
    command = [sys.executable, "-c", MEASURE.format(statement)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    rounds = [{name: seconds(code) for name, code in STATEMENTS.items()} for _ in range(arguments.rounds + 1)][1:]
    rows = {
        name: {
            "seconds": statistics.median(each[name] for each in rounds),
            "beyond torch": statistics.median(each[name] - each["import torch"] for each in rounds),
        }
        for name in STATEMENTS
    }
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'':26}{'seconds':>10}{'beyond torch':>15}")
    for name, row in rows.items():
        print(f"{name:26}{row['seconds']:10.3f}{row['beyond torch']:+15.3f}")


if __name__ == "__main__":
    main()

"""One measurement in a process of its own, which may die or take too long without taking others along."""

import json
import subprocess
import sys
from typing import Any


def answered(script: str, arguments: list[str], timeout: int) -> dict[str, Any]:
    """The mapping that a script prints as JSON on its last line; ``failed`` says why there is none."""
    try:
        done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done in {timeout} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    return {"failed": (done.stderr.strip().splitlines() or ["no output"])[-1][:200]}

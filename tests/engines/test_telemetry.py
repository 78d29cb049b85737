"""No engine of ours tells anybody that it is used."""

import subprocess
import sys

import pytest


def test_openvino_starts_without_its_telemetry() -> None:
    pytest.importorskip("openvino")
    code = (
        "import sys\n"
        "from featherweight.engines import find\n"
        "assert find('openvino').version()\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

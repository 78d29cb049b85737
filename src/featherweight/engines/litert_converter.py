"""LiteRT's converter, which needs an environment of its own: other versions of packages that PyTorch needs too."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import torch
from torch.export import ExportedProgram

from featherweight.core.errors import EngineError, reason_of
from featherweight.core.quiet import quiet
from featherweight.engines.process import ending

PYTHON = "FEATHERWEIGHT_LITERT_PYTHON"
"""The environment variable that names the Python of the converter's environment."""
ADVICE = (
    "the converter needs an environment of its own: python -m venv litert; litert/bin/pip install torch==2.13.0 "
    f"litert-torch==0.10.0; export {PYTHON}=$PWD/litert/bin/python. Or export .onnx or .pte"
)
CHILD = Path(__file__).with_name("litert_child.py")
ERROR = re.compile(r"^[\w.]+(Error|Exception|Interrupt)\b")
MOST = 400
"""Characters of what the converter said that an error quotes."""


def converted(exported: ExportedProgram, python: Path | None = None, timeout: float = 1800.0) -> bytes:
    """The file that the converter makes of a program, for the sizes of its example inputs.

    ``python`` is that of the converter's environment, by default what the environment variable says; ``timeout`` is in
    seconds. ``EngineError`` where it is not there, crashes, takes too long, or has no form of an operator.
    """
    chosen = python or os.environ.get(PYTHON)
    if not chosen:
        raise EngineError(f"no Python with LiteRT's converter is known; {ADVICE}")
    with tempfile.TemporaryDirectory(prefix="featherweight-", ignore_cleanup_errors=True) as folder:
        source, target = Path(folder) / "program.pt2", Path(folder) / "model.tflite"
        with quiet():
            torch.export.save(exported, source)
        command = [str(chosen), "-I", str(CHILD), str(source), str(target)]  # -I: modules beside it shadow none
        try:
            done = subprocess.run(
                command, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout, text=True, errors="replace"
            )
        except subprocess.TimeoutExpired:
            raise EngineError(f"LiteRT's converter took more than {timeout:g} s; give it more, or .onnx") from None
        except OSError as error:
            raise EngineError(f"{chosen} cannot be run ({reason_of(error)}); {ADVICE}") from error
        if done.returncode or not target.exists() or not target.stat().st_size:
            raise EngineError(_complaint(done))
        return target.read_bytes()


def _complaint(done: "subprocess.CompletedProcess[str]") -> str:
    """Why there is no file, with the operator that has no form in LiteRT where the converter names it."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if ERROR.match(line)]
    last = (errors or lines or ["it said nothing"])[-1][:MOST]
    if done.returncode < 0:
        return f"LiteRT's converter ended {ending(done.returncode)} ({last}); {ADVICE}"
    if last.startswith("ModuleNotFoundError"):
        return f"LiteRT's converter is not there ({last}); {ADVICE}"
    if not done.returncode:
        return f"LiteRT's converter wrote no file ({last}); {ADVICE}"
    return (
        f"the model cannot be written for LiteRT ({last}); export .onnx or .pte, or leave out the module that this "
        "operator is in"
    )

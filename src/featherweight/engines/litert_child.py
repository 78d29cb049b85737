"""The child that converts for LiteRT, in the converter's own environment: ``PYTHON litert_child.py PROGRAM.pt2 FILE``.

Nothing of Featherweight is imported here. ``PROGRAM.pt2`` is an exported program with standard quantizing operators and
example inputs, whose sizes the file gets. 64-bit integers among its inputs and outputs become 32-bit ones.
"""

import sys
from pathlib import Path

import litert_torch
import torch
import torch.ao.quantization.fx._decomposed  # defines the operators
from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
from litert_torch.quantize.quant_config import QuantConfig


def main(source: str, target: str) -> None:
    program = torch.export.load(source)
    args, kwargs = program.example_inputs
    static = PT2EQuantizer().set_global(get_symmetric_quantization_config())  # says that ranges are in the program
    module = program.module(check_guards=False)
    made = litert_torch.convert(module, args, kwargs, quant_config=QuantConfig(pt2e_quantizer=static))
    Path(target).write_bytes(made.model_content())


if __name__ == "__main__":
    main(*sys.argv[1:])

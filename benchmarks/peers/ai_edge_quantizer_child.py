"""Run by the Python of LiteRT's converter: its own static int8 quantizer on a float model.

    python ai_edge_quantizer_child.py FLOAT.tflite SAMPLES.npz OUT.tflite

``SAMPLES.npz`` holds one array for each input, in order, of calibration samples that are taken one by one.
"""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe


def main(source: str, samples: str, target: str) -> None:
    (signature, ends), *_ = Interpreter(model_path=source).get_signature_list().items()
    given = np.load(samples)
    arrays = [given[name] for name in given.files]
    rows = [{name: x[k : k + 1] for name, x in zip(ends["inputs"], arrays, strict=True)} for k in range(len(arrays[0]))]
    work = quantizer.Quantizer(source)
    work.load_quantization_recipe(recipe.static_wi8_ai8())
    work.quantize(work.calibrate({signature: rows})).export_model(target)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Run by the Python of an environment that has NNCodec: code the arrays of an .npz at several steps.

    python nncodec_child.py IN.npz OUT_FOLDER QP [QP ...]

Writes ``qpQP.npz`` with the decoded arrays and prints one line of JSON for each: ``{"qp": -32, "bytes": 12345}``.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from nncodec import nnc


def main() -> None:
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    arrays = dict(np.load(source))
    for qp in map(int, sys.argv[3:]):
        with tempfile.TemporaryDirectory() as place:
            path = f"{place}/model.nnc"
            nnc.compress(dict(arrays), bitstream_path=path, qp=qp, use_dq=True, param_opt=True, row_skipping=True)
            size = Path(path).stat().st_size
            decoded = nnc.decompress(path)
        np.savez(folder / f"qp{qp}.npz", **{name: np.asarray(value) for name, value in decoded.items()})
        print(json.dumps({"qp": qp, "bytes": size}), flush=True)


if __name__ == "__main__":
    main()

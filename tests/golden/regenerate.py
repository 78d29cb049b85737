"""Writes the golden files anew: ``python tests/golden/regenerate.py``.

Warning: a change of these files is a change of the format. Files that users have saved must be readable for ever: raise
the format's version, keep the old files as they are beside the new ones, and keep reading them. Run this only for kinds
of files that were not there before.
"""

import json
import sys

from golden import FILES, FOLDER, PLAIN, bytes_of, decoded, inflated


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    hashes = {}
    for name, make in FILES.items():
        data = make()
        path = FOLDER / f"{name}.fwt"
        if not path.exists():
            path.write_bytes(data)
        elif inflated(bytes_of(name)) != inflated(data):
            print(f"{path.name} changes: this is a change of the format", file=sys.stderr)
            path.write_bytes(data)
        hashes[name] = decoded(name)
    hashes |= {name: decoded(name) for name in PLAIN}
    (FOLDER / "decoded.json").write_text(json.dumps(hashes, indent=1) + "\n")


if __name__ == "__main__":
    main()

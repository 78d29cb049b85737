"""Files that were written once: today's encoder writes the same bytes, and today's decoder reads the same tensors.

Where this fails, the format changed: see the warning in ``regenerate.py``.
"""

import json

import pytest
import torch

from featherweight import file

from .golden import FILES, FOLDER, Golden, decoded

HASHES: dict[str, str] = json.loads((FOLDER / "decoded.json").read_text())


def test_all_files_are_known() -> None:
    assert set(HASHES) == set(FILES) == {path.stem for path in FOLDER.glob("*.fwt")}


@pytest.mark.parametrize("name", FILES)
def test_the_encoder_writes_these_bytes(name: str) -> None:
    assert FILES[name]().hex() == (FOLDER / f"{name}.fwt").read_bytes().hex()


@pytest.mark.parametrize("name", FILES)
def test_the_decoder_reads_these_tensors(name: str) -> None:
    assert decoded((FOLDER / f"{name}.fwt").read_bytes()) == HASHES[name]


def test_every_kind_of_code_and_edit_is_there() -> None:
    contents = [file.decode((FOLDER / f"{name}.fwt").read_bytes(), Golden()) for name in FILES]
    kinds = {type(code) for each in contents for code in each.codes.values()}
    assert kinds == set(file.KINDS.values())
    assert {type(edit) for each in contents for edit in each.header.edits} == set(file.EDITS.values())


def test_headers() -> None:
    users = file.decode((FOLDER / "state.fwt").read_bytes(), None).header
    assert (users.number, users.task, users.recipe) == (None, "golden.py:task", "golden")
    assert users.claims == file.Claims(10, 9.5, 9.25, 1)
    assert file.Slot("layer.weight", (6, 8), torch.float32, ("other.weight",)) in users.slots
    built_in = file.decode((FOLDER / "floats.fwt").read_bytes(), Golden()).header
    assert (built_in.number, built_in.claims) == (9, file.Claims(10, 9, 8, 1))

"""Files that were written once: today's encoder writes the same bytes, and today's decoder reads the same tensors.

Where this fails, the format changed: see the warning in ``regenerate.py``.
"""

import json

import pytest
import torch
from torch import nn

from featherweight import file
from featherweight.coding import Reader, open_sealed
from featherweight.core.shared import Reference

from .golden import FILES, FOLDER, PLAIN, Golden, architecture, bytes_of, decoded, inflated

HASHES: dict[str, str] = json.loads((FOLDER / "decoded.json").read_text())


def test_all_files_are_known() -> None:
    assert set(HASHES) == {*FILES, *PLAIN} == {path.stem for path in FOLDER.glob("*.fwt")}


@pytest.mark.parametrize("name", FILES)
def test_the_encoder_writes_these_bytes(name: str) -> None:
    header, rest = inflated(FILES[name]())
    kept_header, kept_rest = inflated(bytes_of(name))
    assert header.decode() == kept_header.decode() and rest.hex() == kept_rest.hex()


@pytest.mark.parametrize("name", [*FILES, *PLAIN])
def test_the_decoder_reads_these_tensors(name: str) -> None:
    assert decoded(name) == HASHES[name]


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_header_says_what_the_packed_one_says(name: str) -> None:
    plain, packed = (file.decode(bytes_of(each), Golden()) for each in (name, name.removesuffix("-plain")))
    assert plain.header == packed.header and plain.overhead > packed.overhead
    assert decoded(name) == HASHES[name.removesuffix("-plain")]


def test_every_kind_of_code_edit_function_and_header_is_there() -> None:
    contents = [file.decode(bytes_of(name), architecture(name)) for name in HASHES]
    kinds = {type(code) for each in contents for code in each.codes.values()}
    assert kinds == set(file.KINDS.values()) - {Reference}
    assert {type(edit) for each in contents for edit in each.header.edits} == set(file.EDITS.values())
    assert {type(site.function) for each in contents for site in each.header.taps} == set(file.FUNCTIONS.values())
    headers = {Reader(open_sealed(bytes_of(name))).unsigned() for name in HASHES}
    assert headers == {file.BUILT_IN, file.PLAIN, file.PACKED}


def test_shared_numbers_stand_once_and_are_shared_again() -> None:
    """A second codebook of four float16 numbers would take more than the reference to the first."""
    loaded, contents = file.load(bytes_of("shared-codebook"), Golden())
    weight, bias = (loaded.codes[name].parts()["centroids"] for name in ("layer.weight", "layer.bias"))
    assert weight.tensors()["values"] is bias.tensors()["values"]
    apart = {name: code.map(torch.clone) for name, code in contents.codes.items()}
    assert len(file._encode_codes(contents.codes)) < len(file._encode_codes(apart))


@pytest.mark.parametrize("name", ["folded-and-tapped", "folded-and-tapped-built-in"])
def test_taps_and_folds(name: str) -> None:
    """What the record of ``docs/format.md`` says, and what the loaded model does."""
    assert json.loads(inflated(bytes_of(name))[0])["edits"] == [["fold", {"conv": "norm"}]]
    assert json.loads(inflated(bytes_of(name))[0])["taps"] == [
        ["sign", [], [["conv", "convolve", 0, 0]]],
        ["uniform", [8, -100, 3 / 64], [["", "cat", 0, 0], ["", "cat", 0, 1], ["", "cat", 0, -1]]],
        ["uniform", [3, 0, 0.10000000149011612], [["head", "linear", 0, 0]]],
        ["half-wave", [2, 0.5], [["head", "linear", 0, -1]]],
        ["uniform", [1, -1, 2.0**-140], [["", "relu", 2, -1]]],
    ]
    loaded, contents = file.load(bytes_of(name), architecture(name))
    assert len(set(loaded.sites.values())) == 5 and isinstance(loaded.base.norm, nn.Identity)
    assert bool(contents.slots) and bool(contents.header.slots) is (contents.header.number is None)
    x = torch.linspace(-3, 3, 20).reshape(1, 2, 10)
    maps = loaded.base.conv._conv_forward(x.sign(), loaded.weight("conv.weight"), loaded.base.conv.bias)
    maps = torch.cat([maps, maps.relu()], 2).div(3 / 64).round().clamp(-100, 155) * (3 / 64)
    pooled = maps.mean(2).div(0.1).round().clamp(0, 7) * 0.1
    logits = pooled @ loaded.base.head.weight.T + loaded.base.head.bias
    expected = torch.where(logits > 0, logits.div(0.5).round().clamp(1, 3) * 0.5, 0)
    torch.testing.assert_close(loaded(x), expected)


def test_headers() -> None:
    users = file.decode(bytes_of("state"), None).header
    assert (users.number, users.task, users.recipe) == (None, "golden.py:task", "golden")
    assert users.claims == file.Claims(10, 9.5, 9.25, 1)
    assert file.Slot("layer.weight", (6, 8), torch.float32, ("other.weight",)) in users.slots
    built_in = file.decode(bytes_of("floats"), Golden()).header
    assert (built_in.number, built_in.claims) == (9, file.Claims(10, 9, 8, 1))

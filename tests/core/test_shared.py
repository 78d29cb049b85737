"""References in place of numbers that are written elsewhere, and back."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from featherweight.core.code import Code
from featherweight.core.errors import FormatError
from featherweight.core.shared import Reference, leaves, mapped, referenced, resolved
from featherweight.schemes.codebook import CodebookCode
from featherweight.schemes.floats import Floats, Width
from featherweight.schemes.sparse import SparseCode


def floats(*values: float, width: Width = Width.FLOAT16) -> Floats:
    return Floats.holding(torch.tensor(values), width)


def codebook(indices: list[int], centroids: Code) -> CodebookCode:
    return CodebookCode((len(indices),), torch.float32, torch.tensor(indices, dtype=torch.int32), centroids)


def sparse(values: Code) -> SparseCode:
    support = torch.tensor([True] * values.shape[0] + [False])
    return SparseCode((len(support),), torch.float32, support, values)


def values(code: Code) -> Tensor:
    (_, leaf, _), *_ = leaves(code)
    return leaf.tensors()["values"]


SHARED, OWN = floats(1.0, 2.0, 3.0), floats(1.0, 2.0, 3.0)
CODES: dict[str, Code] = {
    "bias": floats(5.0),
    "small": codebook([0, 1, 2], SHARED),
    "own": codebook([2, 2, 1], OWN),
    "large": sparse(codebook([1, 1, 1, 0], SHARED)),
    "as large": codebook([0, 1, 2, 1], SHARED),
}


def test_the_code_of_most_entries_holds_what_others_refer_to() -> None:
    written = referenced(CODES)
    assert list(written) == list(CODES)
    kept = {name: [type(leaf) for _, leaf, _ in leaves(code)] for name, code in written.items()}
    assert kept == {"bias": [], "small": [Reference], "own": [Floats], "large": [Floats], "as large": [Reference]}
    for name in ("small", "as large"):
        (_, reference, _), *_ = leaves(written[name])
        assert reference.settings() == (1,)  # after the numbers of "own", before which no leaf is written


def test_what_is_referred_to_comes_back_as_the_same_object() -> None:
    written = mapped(referenced(CODES), torch.clone)
    back = resolved(written)
    assert all(torch.equal(back[name].decode(), code.decode()) for name, code in CODES.items())
    assert values(back["small"]) is values(back["large"]) is values(back["as large"])
    assert values(back["own"]) is not values(back["large"])
    with pytest.raises(FormatError, match="not looked up"):
        written["small"].decode()


def test_equal_numbers_of_another_width_are_apart() -> None:
    wide = replace(SHARED, width=Width.FLOAT32)
    written = referenced({"one": codebook([0, 1, 2], SHARED), "two": codebook([0, 1, 2], wide)})
    assert all(isinstance(leaf, Floats) for code in written.values() for _, leaf, _ in leaves(code))


def test_a_map_keeps_what_is_shared() -> None:
    moved = mapped(CODES, lambda tensor: tensor + 1)
    assert values(moved["small"]) is values(moved["large"]) and values(moved["own"]) is not values(moved["large"])
    torch.testing.assert_close(moved["bias"].decode(), torch.tensor([6.0]))


@pytest.mark.parametrize(
    "code, reason",
    [
        (codebook([0], Reference((1,), torch.float32, 7)), "no shared numbers 7: the file holds 2"),
        (codebook([0], Reference((2,), torch.float32, 0)), "needs torch.float32 of shape .2,"),
        (codebook([0], Reference((3,), torch.float64, 0)), "needs torch.float64"),
        (Reference((3,), torch.float32, 0), "a whole tensor"),
    ],
)
def test_what_refers_to_nothing_is_refused(code: Code, reason: str) -> None:
    with pytest.raises(FormatError, match=f"bad: .*{reason}"):
        resolved({"first": codebook([0], SHARED), "bad": code, "own": codebook([0], OWN)})

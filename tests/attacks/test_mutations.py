"""Law 7: truncated and mutated files give ``FormatError`` or a model of the declared shapes; never anything else."""

import random

import pytest

from .victim import FILES, loads, resealed, survives, unpacks

COUNT = 1_000
"""Mutations of each file; half of them have their checksum repaired."""


def test_the_files_themselves_are_read() -> None:
    assert all(loads(data) for data in FILES.values())
    assert all(unpacks(data) is not name.endswith("built-in") for name, data in FILES.items())


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_every_truncation_is_refused(data: bytes) -> None:
    assert not any(survives(data[:length]) for length in range(len(data)))


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_truncations_with_a_repaired_checksum(data: bytes) -> None:
    """What is left may be the code word of other symbols, but seldom is."""
    assert sum(survives(resealed(data[:length] + b"****")) for length in range(len(data) - 4)) <= len(data) // 20


def mutated(data: bytes, dice: random.Random) -> bytes:
    """One to four flips, insertions, deletions, exchanges or overwritings."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        place = dice.randrange(len(changed) - 4)
        other, length = dice.randrange(len(changed) - 4), dice.randrange(1, 9)
        match dice.randrange(6):
            case 0:
                changed[place] ^= 1 << dice.randrange(8)
            case 1:
                changed[place] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
            case 2:
                changed[place:place] = dice.randbytes(length)
            case 3 if len(changed) > 20:
                del changed[place : place + length]
            case 4:
                changed[place : place + length] = changed[other : other + length]
            case _:
                changed[place:place] = changed[other : other + length]
    return bytes(changed)


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_mutations(data: bytes) -> None:
    """Without the right checksum a file is refused whatever it holds; with it, most are, and the others are whole."""
    dice = random.Random(len(data))
    accepted = 0
    for number in range(COUNT):
        attack = mutated(data, dice)
        if number % 2:
            accepted += survives(resealed(attack))
        else:
            assert attack == data or not survives(attack)
    assert accepted < COUNT // 4


def test_splices() -> None:
    """The front of one file with the back of another."""
    dice = random.Random(1)
    for _ in range(500):
        first, second = dice.sample(list(FILES.values()), 2)
        survives(resealed(first[: dice.randrange(len(first))] + second[dice.randrange(len(second)) :] + b"****"))

"""Nothing escapes the laws: every scheme and every kind of code is in the table."""

import pkgutil
from dataclasses import fields, is_dataclass
from importlib import import_module

import pytest
import torch
from torch import nn

import featherweight
from featherweight import file
from featherweight.core.code import Code
from featherweight.core.compressed import Compressed
from featherweight.core.errors import SchemeError
from featherweight.core.scheme import Scheme
from featherweight.core.shared import Reference
from featherweight.schemes.allocated import Allocated

from .table import REFUSED, TABLE, WEIGHTS


def schemes_in(value: object) -> set[type[Scheme]]:
    """The classes of a scheme and of those among its settings."""
    inner = [getattr(value, field.name) for field in fields(value)] if is_dataclass(value) else []
    found = {type(value)} if isinstance(value, Scheme) else set()
    return found.union(*(schemes_in(each) for each in inner))


def subclasses(base: type) -> set[type]:
    direct = {each for each in base.__subclasses__() if each.__module__.startswith("featherweight.")}
    return direct.union(*(subclasses(each) for each in direct))


def kinds_in(code: Code) -> set[type[Code]]:
    return {type(code)}.union(*(kinds_in(part) for part in code.parts().values()))


def test_every_scheme_is_listed() -> None:
    for room in ("schemes", "solvers", "activations"):
        for module in pkgutil.iter_modules([f"{featherweight.__path__[0]}/{room}"]):
            import_module(f"featherweight.{room}.{module.name}")
    listed = set().union(*(schemes_in(entry.scheme) for entry in TABLE.values()))
    bases = {Allocated}  # which is no scheme by itself
    missing = {scheme.__name__ for scheme in subclasses(Scheme) - bases} - {scheme.__name__ for scheme in listed}
    assert not missing, f"list {missing} in tests/laws/table.py"


def test_every_kind_of_code_is_produced() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    of_schemes = {kind for entry in TABLE.values() for kind in kinds_in(entry.scheme.project(WEIGHTS["normal"]))}
    of_state = {type(code) for code in file.state_codes(Compressed(Counting())).values()}
    assert set(file.KINDS.values()) - {Reference} == of_schemes | of_state  # references are met in files alone


@pytest.mark.parametrize("name, weight", REFUSED)
def test_what_the_table_leaves_out_is_refused(name: str, weight: str) -> None:
    with pytest.raises(SchemeError):
        TABLE[name].scheme.project(WEIGHTS[weight])

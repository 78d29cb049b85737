"""Law 4 on many architectures: cut equals masked. Eight in every run, all where ``FEATHERWEIGHT_ZOO`` is ``all``."""

import os
import warnings
from contextlib import suppress
from types import ModuleType

import pytest
import torch

from .zoo import OWN, ZOO, declare_torchvision
from .zoo_checks import cast, cut_a_third, randomised

EVERY_RUN = {"plain", "resnet-20", "dense", "inverted residual", "shuffle", "u-net", "fused attention", "lstm"}


def importable(package: str) -> ModuleType:
    with suppress(RuntimeError):  # declared already, by one that fits
        declare_torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(package)


@pytest.mark.parametrize("name", ZOO)
def test_cut_equals_masked(name: str) -> None:
    entry = ZOO[name]
    if name not in EVERY_RUN and os.environ.get("FEATHERWEIGHT_ZOO") != "all":
        pytest.skip("set FEATHERWEIGHT_ZOO=all to cut all architectures")
    if entry.package:
        importable(entry.package)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages that define the model
        found = cut_a_third(randomised(entry.make()), cast(entry.example()))
    assert found.error <= 1e-9
    assert found.moved > 1e-3
    assert found.reach >= 0.6


def test_the_table_is_of_forty_architectures() -> None:
    assert len(ZOO) >= 40 and set(OWN) >= EVERY_RUN and len(EVERY_RUN) >= 8

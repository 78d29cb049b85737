"""What several rooms' tests share."""

import copy
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from featherweight.tasks import find

torch.set_num_threads(1)  # the tensors are tiny, and several processes may share the cores


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that train networks, or go through many settings of the same thing, run where all are asked for."""
    if os.environ.get("FEATHERWEIGHT_TESTS") == "all":
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="takes long; FEATHERWEIGHT_TESTS=all runs it"))


def pytest_runtest_setup() -> None:
    """PyTorch's exporter reads the sources of all operators of ONNX again in each export, half its time: here once."""
    module = sys.modules.get("torch.onnx._internal.exporter._registration")
    registry = getattr(module, "ONNXRegistry", None)
    if registry is None or hasattr(registry, "read_once"):
        return
    read = cache(registry.from_torchlib)

    def from_torchlib(*arguments: Any, **settings: Any) -> Any:
        found = read(*arguments, **settings)
        copied = copy.copy(found)
        copied.functions = {name: [*functions] for name, functions in found.functions.items()}
        return copied

    registry.from_torchlib, registry.read_once = staticmethod(from_torchlib), True


@pytest.fixture(scope="session", autouse=True)
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder: the one of ``FEATHERWEIGHT_DATA`` where it is set, else one of this session, empty at first.

    Processes that share a session's tests share it: a baseline is trained by one of them.
    """
    shared = "PYTEST_XDIST_WORKER" in os.environ
    folder = tmp_path_factory.getbasetemp().parent / "data" if shared else tmp_path_factory.mktemp("data")
    folder.mkdir(exist_ok=True)
    return Path(os.environ.setdefault("FEATHERWEIGHT_DATA", str(folder)))


@pytest.fixture(scope="session")
def digits_model(data_folder: Path) -> nn.Module:
    """The trained network of the ``digits`` task. Do not change it."""
    return find("digits").model()


@pytest.fixture(scope="session")
def digits_lstm(data_folder: Path) -> nn.Module:
    """The same of ``digits-lstm``."""
    return find("digits-lstm").model()

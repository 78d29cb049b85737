"""A model's inputs as the arrays that engines take."""

from typing import Any

import numpy as np
from torch import Tensor

from featherweight.core.task import Batch, Example, call


def arrays_of(batch: Batch | Example) -> list["np.ndarray[Any, Any]"]:
    """The tensors that a model takes, as arrays and in order."""
    if isinstance(batch, Example):
        args, kwargs = batch.args, batch.kwargs
    else:
        captured: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        call(lambda *args, **kwargs: captured.append((args, kwargs)), batch)
        args, kwargs = captured[0]
    return [x.detach().cpu().numpy() for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]

"""Hooks of modules that are gone when a block is left."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch.utils.hooks import RemovableHandle


class Seen(Exception):
    """All that is wanted of a batch was seen: the rest of the model need not run."""


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove these hooks on leaving, also where one of them cannot be registered."""
    with ExitStack() as stack:
        for handle in handles:
            stack.enter_context(handle)
        yield

"""Memory that is free within the process, back to the system."""

import ctypes


def give_back() -> None:
    """Return what was freed to the system, where the C library is asked to (glibc's ``malloc_trim``).

    Tensors of up to 32 MB lie in a heap whose holes it keeps: a loop over layers of several shapes grows by more than
    all that it holds at any time.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # another C library, another system
        return
    trim(0)

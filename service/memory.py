"""Freed memory, back to the kernel: glibc keeps what lies between two pieces that are still in use."""

import ctypes


def give_back() -> None:
    """Takes some 10 ms, in which threads that allocate may wait. Does nothing with a C library that has no such call."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

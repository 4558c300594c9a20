"""Freed memory, back to the kernel: glibc keeps what lies between two pieces that are still in use."""

import ctypes

M_MMAP_THRESHOLD = -3
# The pixels of a photograph, a batch's activations: more than that is mapped by itself, and gone once it is freed. By itself glibc raises the
# limit to 32 MiB as soon as such pieces come and go, and then keeps a GB after a dozen photographs.
LARGE_BYTES = 2**20


def let_go_of_large() -> None:
    """To be called once, early. Does nothing with a C library that has no such call."""
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:
        tune(M_MMAP_THRESHOLD, LARGE_BYTES)


def give_back() -> None:
    """Takes some 10 ms, in which threads that allocate may wait. Does nothing with a C library that has no such call."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

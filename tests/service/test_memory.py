import ctypes
import os

from service.memory import give_back
from tests.processes import resident_kb

PIECES, BYTES = 1000, 64 * 1024


def test_freed_memory_below_what_is_in_use_goes_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    pieces = [libc.malloc(BYTES) for _ in range(PIECES)]
    for piece in pieces:
        ctypes.memset(piece, 1, BYTES)
    *freed, last = pieces
    for piece in freed:
        libc.free(piece)
    before = resident_kb(os.getpid())
    give_back()
    assert resident_kb(os.getpid()) < before - 0.8 * PIECES * BYTES / 1024
    libc.free(last)

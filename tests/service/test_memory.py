import ctypes
import re
from pathlib import Path

from service.memory import give_back

PIECES, BYTES = 1000, 64 * 1024


def resident_mb() -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def test_freed_memory_below_what_is_in_use_goes_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    pieces = [libc.malloc(BYTES) for _ in range(PIECES)]
    for piece in pieces:
        ctypes.memset(piece, 1, BYTES)
    *freed, last = pieces
    for piece in freed:
        libc.free(piece)
    before = resident_mb()
    give_back()
    assert resident_mb() < before - 0.8 * PIECES * BYTES / 2**20
    libc.free(last)

import ctypes
import os
import subprocess
import sys

from service.memory import give_back
from tests.processes import ENVIRONMENT, resident_kb

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


def test_large_pieces_go_back_though_others_of_their_size_came_and_went_before() -> None:
    script = """
import ctypes, os, sys
from service.memory import let_go_of_large
from tests.processes import resident_kb
if sys.argv[1] == "let-go":
    let_go_of_large()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.free(libc.malloc(16 * 2**20))
pieces = [libc.malloc(8 * 2**20) for _ in range(20)]
last = libc.malloc(64 * 1024)
for piece in pieces:
    ctypes.memset(piece, 1, 8 * 2**20)
before = resident_kb(os.getpid())
for piece in pieces:
    libc.free(piece)
print(before - resident_kb(os.getpid()))
"""
    kept, gone = (
        int(subprocess.run([sys.executable, "-c", script, how], env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "let-go")
    )
    assert gone > 150 * 1024 > kept

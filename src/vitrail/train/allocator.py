"""Freed memory stays with the process while it trains: a step frees and takes the same gigabyte again and again, and
the system clears every page it hands out anew."""

import ctypes
import sys

_TRIM, _MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell the C library to keep what is freed for the next request; whether it was one that can be told (glibc).

    It holds for the whole process and until its end, so programs call it, not the library. Measured by
    benchmarks/train_step.py (docs/log.md): a step without it takes 5 to 12 % longer on a CPU.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM, _NEVER))

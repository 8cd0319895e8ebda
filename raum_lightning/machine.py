"""What the machine gives this process: cores, and the memory that it has freed."""

import ctypes
import os
import sys
import warnings
from functools import cache
from multiprocessing import parent_process

# names and numbers of mallopt(3)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def usable_cores() -> int:
    """Return how many cores this process may use: those of its job on a cluster, where the machine has more."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_memory() -> None:
    """Let this process reuse the memory that it frees; for work on the CPU whose arrays come and go in each step.

    The allocator of glibc gives arrays of more than 32 MB back to the system, which then clears every page of the next
    one: a quarter of the time that a patch of 128^3 takes, and more of a training step. Does nothing where there is
    another C library, and can be called again. Older versions of glibc refuse, which is said once.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):  # in musl
        return
    # it returns 0 where it refuses
    accepted = [libc.mallopt(M_MMAP_THRESHOLD, 2**30), libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)]
    if not all(accepted) and parent_process() is None:
        _say_refused()


def give_back_memory() -> None:
    """Return freed memory that `keep_memory` holds to the system, before arrays of another size are made."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


@cache
def _say_refused() -> None:
    warnings.warn(
        "this system's C library refuses to keep freed memory: training on the CPU is slower; with a newer glibc, "
        "or jemalloc by LD_PRELOAD, it is not",
        RuntimeWarning,
        stacklevel=3,
    )

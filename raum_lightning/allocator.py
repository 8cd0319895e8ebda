"""What the C library does with memory that is freed."""

import ctypes
import sys

# names and numbers of mallopt(3)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_memory() -> None:
    """Lets this process reuse the memory that it frees; for work on the CPU whose arrays come and go in each step.

    The allocator of glibc hands arrays of more than 32 MB back to the system, which then clears every page of the next
    one: a quarter of the time that a patch of 128^3 takes, and more of a training step. Does nothing where there is
    another C library, and can be called again.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # not in musl
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)

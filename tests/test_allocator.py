"""Memory that is freed is used again, instead of being cleared anew by the system."""

import subprocess
import sys

COUNT_FAULTS = """
import resource, sys
import torch
from raum_lightning.allocator import keep_memory

if sys.argv[1] == "kept":
    keep_memory()
for _ in range(10):  # aligned arrays need a little more than the last one left
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(way: str) -> int:
    """Pages that five arrays of 64 MiB, one after the other, were given by the system."""
    return int(subprocess.run([sys.executable, "-c", COUNT_FAULTS, way], check=True, capture_output=True).stdout)


def test_large_arrays_reuse_what_was_freed() -> None:
    kept, as_it_comes = faults("kept"), faults("as it comes")
    assert kept < as_it_comes / 10 or sys.platform != "linux"  # elsewhere it only has to do nothing

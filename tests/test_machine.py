"""Memory that is freed is used again, instead of being cleared again by the system."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from raum_lightning.machine import _say_refused, keep_memory

COUNT_FAULTS = """
import resource, sys
import torch
from raum_lightning.machine import keep_memory

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


@pytest.mark.slow
def test_large_arrays_reuse_what_was_freed() -> None:
    kept, as_it_comes = faults("kept"), faults("as it comes")
    assert kept < as_it_comes / 10 or sys.platform != "linux"  # elsewhere it only has to do nothing


def test_a_refusal_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by an older glibc, whose `mallopt` returns 0."""
    refusing = SimpleNamespace(mallopt=lambda name, value: 0)
    monkeypatch.setattr("raum_lightning.machine.ctypes.CDLL", lambda name: refusing)
    monkeypatch.setattr("raum_lightning.machine.sys.platform", "linux")
    _say_refused.cache_clear()
    with pytest.warns(RuntimeWarning, match="refuses to keep freed memory") as told:
        keep_memory()
        keep_memory()
    assert len(told) == 1
    _say_refused.cache_clear()

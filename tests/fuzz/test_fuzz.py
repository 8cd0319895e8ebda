"""A few hundred of what `make fuzz` does by the thousand."""

from collections import Counter
from pathlib import Path

import pytest

from tests.fuzz import fuzz_geometry, fuzz_headers

pytestmark = pytest.mark.slow


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    counts = fuzz_headers.fuzz(400, 1, tmp_path)
    assert set(counts) == {"read", "refused"}, next(text for text in counts if text not in ("read", "refused"))
    assert min(counts.values()) > 40


def test_damaged_cases_are_done_or_refused(tmp_path: Path) -> None:
    for counts in map(Counter, zip(*fuzz_geometry.fuzz(range(60), 1, tmp_path), strict=True)):
        assert set(counts) == {"done", "refused"}, next(text for text in counts if text not in ("done", "refused"))
        assert min(counts.values()) > 5

"""Progress on standard error."""

import pytest

from raum_lightning.progress import progress_bar


def test_what_takes_no_time_is_not_mentioned(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("checking cases"):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_log_file_gets_one_line_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("checking cases") as update:
        update(1, 2)
        update(2, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("checking cases ") and " 2/2 " in line

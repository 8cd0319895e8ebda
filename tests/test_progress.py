"""Progress on standard error, and tables."""

import pytest
from rich.table import Table

from raum_lightning.progress import print_table, progress_bar


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


def test_a_table_keeps_its_digits_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = Table(*(f"score {number}" for number in range(9)))
    table.add_row(*(f"{number}.12345" for number in range(9)))
    print_table(table).print("and more")
    said = capsys.readouterr().out
    assert all(f" {number}.12345 " in said for number in range(9)) and "and more" in said

"""The numbers of a run as a CSV file."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import loggers
from lightning.pytorch.utilities import rank_zero_only

from raum_lightning.atomic import append_text, write_csv
from raum_lightning.runs.folder import RunFolder
from raum_lightning.runs.outputs import check_writable


class CSVLogger(loggers.Logger):
    """A row for all that is logged at once in `<save_dir>/metrics.csv`; a resumed run appends to its file.

    Unlike Lightning's logger of that name it keeps the rows of a resumed run, and makes no folder of its own.
    """

    def __init__(self, save_dir: Path | str = ".") -> None:
        super().__init__()
        self.path = RunFolder(Path(save_dir)).metrics
        check_writable(self.path)
        self.columns: list[str] = []

    @property
    def name(self) -> str:
        """Part of no path."""
        return ""

    @property
    def version(self) -> str:
        """Part of no path."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder of the file."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The configuration has a file of its own."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row; a column seen for the first time rewrites the file with it."""
        row = {"step": step, **metrics}
        if not self.columns or any(name not in self.columns for name in row):
            rows = self.rows()
            self.columns = list(dict.fromkeys([*self.columns, *row]))
            self._write(rows)
        line = io.StringIO(newline="")
        csv.DictWriter(line, self.columns).writerow(row)
        append_text(self.path, line.getvalue())

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Drop the rows from `step` on: a run killed after its last checkpoint takes these steps again."""
        if self.path.exists():
            self._write([row for row in self.rows() if int(row["step"]) < step])

    def rows(self) -> list[dict[str, str]]:
        """Return the rows of the file, without one that a killed process left half written."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if None not in row.values()]
            self.columns = self.columns or list(reader.fieldnames or [])
        return rows

    def _write(self, rows: Iterable[Mapping[str, str]]) -> None:
        write_csv(self.path, self.columns, rows)

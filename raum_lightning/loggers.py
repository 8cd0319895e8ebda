"""Where the numbers of a run go: a CSV file, and Weights & Biases besides."""

import csv
import io
import os
import sys
from collections.abc import Iterable, Mapping
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch import loggers
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from raum_lightning.atomic import append_text, write_csv
from raum_lightning.runs.folder import RunFolder


class CSVLogger(loggers.Logger):
    """One row per logged step in `<save_dir>/metrics.csv`; a continued run continues its file.

    Unlike Lightning's logger of that name it keeps the rows of a run that goes on, and takes no folder of its own.
    """

    def __init__(self, save_dir: Path | str = ".") -> None:
        super().__init__()
        self.path = RunFolder(Path(save_dir)).metrics
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
        """Appends a row; a column seen for the first time rewrites the file with it."""
        row = {"step": step, **metrics}
        if not self.columns or any(name not in self.columns for name in row):
            rows = self._read()
            self.columns = list(dict.fromkeys([*self.columns, *row]))
            self._write(rows)
        line = io.StringIO(newline="")
        csv.DictWriter(line, self.columns).writerow(row)
        append_text(self.path, line.getvalue())

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Drops the rows from `step` on: a run killed after its last checkpoint takes these steps again."""
        if self.path.exists():
            self._write([row for row in self._read() if int(row["step"]) < step])

    def _read(self) -> list[dict[str, str]]:
        """The rows of the file, without one that a killed process left half written."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if None not in row.values()]
        self.columns = self.columns or list(reader.fieldnames or [])
        return rows

    def _write(self, rows: Iterable[Mapping[str, str]]) -> None:
        write_csv(self.path, self.columns, rows)


class WandbLogger(loggers.WandbLogger):
    """Lightning's, with the choice between online and offline made for you, and without the power to end a training.

    A server that cannot be reached at the start makes it an offline run. One that is lost later is tried again by W&B
    itself, for five minutes (WANDB_FINISH_TIMEOUT) after the last number, and what is not sent stays on disk.

    Args:
        project: Project on the server.
        name: Name of the run.
        save_dir: Folder in which `wandb/` is created.
        id: Names the run for good: the same id continues it.
        offline: Keep the run on disk until `wandb sync`; where not given, only when no key is configured. WANDB_MODE in
            the environment (online, offline, shared or disabled) comes first.
        group: Groups runs.
        tags: Tags of the run.
    """

    def __init__(
        self,
        project: str = "raum",
        *,
        name: str | None = None,
        save_dir: Path | str = ".",
        id: str | None = None,
        offline: bool | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
    ) -> None:
        mode, reason = _mode(offline)
        if mode == "offline":
            rank_zero_info(f"{reason}: the run stays on disk")
        Path(save_dir).mkdir(parents=True, exist_ok=True)
        # `mode` and not Lightning's `offline`, which sets a mode that wandb no longer knows
        how: dict[str, Any] = {"mode": mode, "resume": None if mode == "offline" else "allow"}
        # its dozens of lines at the end become the one of `finish_wandb`
        how["settings"] = {"silent": True}
        super().__init__(project=project, name=name, save_dir=save_dir, id=id, group=group, tags=tags, **how)
        self._wandb_init.pop("anonymous", None)  # wandb warns of it even where it is None
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", "300")  # seconds; W&B's own default is to wait for ever
        self.lost = False
        self.best: dict[str, float] = {}

    @property
    def experiment(self) -> Any:
        """The run; the summary of a Dice is its best value, not its last."""
        import wandb

        fresh = self._experiment is None
        try:
            run = super().experiment
        except wandb.errors.CommError:
            rank_zero_info(f"W&B cannot be reached: the run stays on disk, {sending(self.save_dir)}")
            wandb.teardown()  # the process of W&B's own that has failed to start the run
            self._wandb_init |= {"mode": "offline", "resume": None}
            run = super().experiment
        if fresh and hasattr(run, "define_metric"):
            for region in ("wt", "tc", "et", "mean"):
                run.define_metric(f"val/dice_{region}", step_metric="trainer/global_step")
        return run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """As the parent's, as long as W&B's own process lives."""
        if self.lost:
            return
        try:
            super().log_metrics(metrics, step)
            dice = {name: value for name, value in metrics.items() if name.startswith("val/dice_")}
            self.best |= {name: max(value, self.best.get(name, value)) for name, value in dice.items()}
            if dice:  # as numbers, which a sweep can optimise; what `define_metric` makes of them are dictionaries
                self.experiment.summary.update(self.best)
        except Exception as error:  # whatever W&B has to say, it is no reason to stop training
            self.lost = True
            rank_zero_info(
                f"W&B takes no more numbers ({type(error).__name__}); training goes on, metrics.csv has them all; what "
                f"W&B had before is on disk, {sending(self.save_dir)}"
            )


def sending(folder: Path | str | None) -> str:
    """By what command the runs in a folder go to the server, those that were online in part included."""
    return f"`wandb sync --include-online {folder}/wandb/*run-*` sends it"


def finish_wandb(*, failed: bool = False) -> None:
    """Ends the process's W&B run if there is one, so that the next starts its own; W&B shows it as failed or finished.

    A run that was stopped to go on later counts as failed until it does.
    """
    if wandb := sys.modules.get("wandb"):
        try:
            run = getattr(wandb, "run", None)
            where = _where(run) if run is not None else ""
            wandb.finish(exit_code=int(failed))
            if where:
                print(where, flush=True)
        except OSError:  # SLURM ends W&B's own process together with ours, and it may be the first to go
            sys.unraisablehook = lambda failure: None  # wandb tries once more when Python exits


def _where(run: Any) -> str:
    """Return where a run can be seen, in one line."""
    if run.disabled:
        return ""
    if not run.offline:
        return f"W&B: {run.url}"
    folder = Path(run.settings.sync_dir)
    folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    return f"W&B: `wandb sync {folder}` sends it, `wandb leet {folder.parent}` shows it"


def _mode(offline: bool | None) -> tuple[str, str]:
    """W&B's mode, and why."""
    if mode := os.environ.get("WANDB_MODE"):
        mode = {"dryrun": "offline", "run": "online"}.get(mode, mode)  # their names of old
        return mode, f"W&B is {mode} by WANDB_MODE"
    if offline is None:
        return ("online", "") if _has_key() else ("offline", "W&B has no key")
    return ("offline", "W&B is offline as configured") if offline else ("online", "")


def _has_key() -> bool:
    """Whether the environment or a netrc file holds a key, as `wandb login` leaves it; asks no server."""
    import wandb

    if "WANDB_API_KEY" in os.environ or "WANDB_IDENTITY_TOKEN_FILE" in os.environ:
        return True
    host = urlsplit(wandb.Settings().base_url).hostname or ""
    try:
        return netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (FileNotFoundError, NetrcParseError):
        return False

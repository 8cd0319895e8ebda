"""Where a run lies on disk, `<root>/<experiment>/<id>/`, and what its files are called: here and nowhere else."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raum_lightning.errors import RunError


@dataclass(frozen=True)
class RunFolder:
    """The files of a run.

    config.yaml          everything the run was given but its name, and `-c` for running it again
    splits.json          the cases that train, validate and test
    provenance.json      for each start: date, git commit, hash of the data, versions, hardware, folders of YAML files
    metrics.csv          losses, learning rate and Dice by step
    checkpoints/         best.ckpt (by `module.monitor`), last.ckpt and the one before it, previous.ckpt
    wandb/               offline runs and W&B's own files
    validate/ test/      numbers and tables of the other verbs: cases.csv, cases.json, metrics.csv; with
                         `--data.without` in a folder inside
    predictions/         segmentations, <case id>.nii.gz or as the data set has it
    report.html          the page that `raum report` writes
    nonfinite-*.pt       a batch whose loss became NaN
    fit.lock             who trains here now

    Args:
        path: The folder.
    """

    path: Path

    def __repr__(self) -> str:
        return f"<RunFolder {self.path}>"

    @property
    def experiment(self) -> str:
        """The name of its experiment; `path` may be relative, or a link."""
        return self.path.resolve().parent.name

    @property
    def id(self) -> str:
        """The name of the run."""
        return self.path.resolve().name

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.path / "config.yaml"

    @property
    def splits(self) -> Path:
        """The cases by their use."""
        return self.path / "splits.json"

    @property
    def provenance(self) -> Path:
        """When and where it was started, with which code and data."""
        return self.path / "provenance.json"

    @property
    def metrics(self) -> Path:
        """What was logged, by step."""
        return self.path / "metrics.csv"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The checkpoint with the best score."""
        return self.checkpoints / "best.ckpt"

    @property
    def last(self) -> Path:
        """The checkpoint of the last step that was saved."""
        return self.checkpoints / "last.ckpt"

    @property
    def previous(self) -> Path:
        """What `last` was before it was written the last time."""
        return self.checkpoints / "previous.ckpt"

    @property
    def saved(self) -> list[Path]:
        """All checkpoints, without what is being written."""
        return [path for path in self.checkpoints.glob("*.ckpt") if not path.name.startswith(".")]

    @property
    def wandb(self) -> Path:
        """What the W&B logger writes."""
        return self.path / "wandb"

    @property
    def predictions(self) -> Path:
        """The folder of the segmentations."""
        return self.path / "predictions"

    @property
    def report(self) -> Path:
        """The page of the run."""
        return self.path / "report.html"

    @property
    def lock(self) -> Path:
        """Says which process trains here."""
        return self.path / "fit.lock"

    def of(self, verb: str, *, without: Sequence[str] = ()) -> "RunFolder":
        """Return where a verb writes its numbers: the run's own folder for `fit`, one inside it for the others.

        Scores `without` some modalities lie in a folder of their own inside that, such as test/without-flair-t2.
        """
        if verb == "fit":
            return self
        return RunFolder(Path(self.path / verb, *([f"without-{'-'.join(without)}"] if without else [])))

    @property
    def cases(self) -> Path:
        """The scores of each case, in the folder of a verb."""
        return self.path / "cases.csv"

    @property
    def scores(self) -> Path:
        """The same with the rules by which they were made, for `raum compare`."""
        return self.path / "cases.json"

    def nonfinite(self, batch: int, rank: int) -> Path:
        """Return where a batch is kept whose loss became NaN."""
        return self.path / f"nonfinite-{batch}-rank{rank}.pt"

    @property
    def own(self) -> set[Path]:
        """The files that only `lightning` writes here."""
        return {self.config, self.splits, self.provenance, self.metrics, self.cases, self.lock}

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return self.config.is_file()

    @classmethod
    def of_file(cls, path: Path) -> "RunFolder | None":
        """Return the run that a checkpoint or a configuration belongs to; None where it lies in no run."""
        beside, above = cls(path.parent), cls(path.parent.parent)
        if path.name == beside.config.name:
            return beside if beside.checkpoints.is_dir() else None
        return above if path.parent == above.checkpoints else None


def find_checkpoint(experiment: Path, wanted: str | None, run: Path | None = None) -> Path:
    """Return a checkpoint of `run`, or else of the newest run in the folder `experiment` that has it.

    `wanted` is "best" or "last"; where not given, best if there is one. Raises `RunError` when no run has it.
    """
    runs = [run] if run else sorted((path for path in experiment.glob("*/")), key=_started, reverse=True)
    for folder in map(RunFolder, runs):
        named = {"best": folder.best, "last": folder.last}
        for path in [named[wanted]] if wanted else named.values():
            if path.is_file():
                return path
    raise RunError(
        f"no {wanted or 'best or last'}.ckpt in {RunFolder(run or experiment / '*').checkpoints}; "
        "run `lightning fit` first or name a checkpoint with --ckpt_path"
    )


def _started(run: Path) -> float:
    config = RunFolder(run).config
    return config.stat().st_mtime if config.exists() else run.stat().st_mtime

"""The experiments that come with the package: beside it in a wheel, one folder up in a clone."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def experiments() -> Path:
    """Return the folder of the experiments that are shipped."""
    within = PACKAGE / "experiments"
    return within if within.is_dir() else PACKAGE.parent / "experiments"


def find_experiment(file: Path, folder: Path = Path()) -> Path:
    """Return the file that is meant: `file` in `folder` where it is there, else the shipped one of its name, if any."""
    meant = folder / file
    if file.is_absolute() or meant.exists() or ".." in file.parts:
        return meant
    shipped = experiments() / file.relative_to("experiments" if file.parts[:1] == ("experiments",) else "")
    return shipped if shipped.is_file() else meant

"""`raum init`: copies of the experiments, data sets and SLURM files, commented and ready to edit."""

import argparse
from pathlib import Path

from raum_lightning.errors import OutputError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.epilog = "Files that are there are kept where they are the same, and never replaced."
    parser.add_argument("dir", type=Path, metavar="DIR", help="folder to write to; is made")


def run(args: argparse.Namespace) -> int:
    """Write the files, print the next command, and return 0."""
    from raum_lightning.atomic import write_text

    files = _files(args.dir)
    for target, text in files.items():
        if target.exists() and (not target.is_file() or target.read_text("utf-8", "replace") != text):
            raise OutputError(f"{target}: exists and is another; give another folder, or remove it first")
    written = [target for target in files if not target.exists()]
    for target in written:
        write_text(target, files[target])
    first = args.dir / "experiments/unetr.yaml"
    print(f"{args.dir}: {len(written)} files written, {len(files) - len(written)} were there already")
    print(f"edit {first}, then: lightning fit -c {first} --data.root FOLDER_WITH_CASES")
    return 0


def _files(root: Path) -> dict[Path, str]:
    """Return the files by where they go."""
    from raum_lightning.cli.shipped import PACKAGE, experiments

    files = {}
    for name, folder in (("experiments", experiments()), ("datasets", PACKAGE / "datasets")):
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".yaml", ".sbatch"):
                files[root / name / path.relative_to(folder)] = path.read_text(encoding="utf-8")
    return files

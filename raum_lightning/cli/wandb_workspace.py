"""`raum wandb-workspace`: the dashboard of a cross-validation, laid out in W&B."""

import argparse
from pathlib import Path

from raum_lightning.errors import RunError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("study", metavar="CV_DIR", type=Path, help="folder of the cross-validation, synced with W&B")
    parser.add_argument("--entity", help="user or team of W&B (default: the logger's, or WANDB_ENTITY)")


def run(args: argparse.Namespace) -> int:
    """Build the dashboard, upload it, print its address, and return 0."""
    from raum_lightning.runs.study_folder import StudyFolder
    from raum_lightning.studies.workspace import lay_out, send
    from raum_lightning.yaml_files import read_yaml

    folder = StudyFolder(args.study)
    if not folder.study.exists():
        raise RunError(f"{args.study}: is not the folder of a cross-validation (no {folder.study.name})")
    folds = folder.count_folds()
    workspace = lay_out(read_yaml(folder.config)[0], folder, folds, entity=args.entity)
    print(f"dashboard: {send(workspace)}")
    return 0

"""`raum datasets`: the data sets that are known by name."""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="print this one's YAML, as a start for your own")


def run(args: argparse.Namespace) -> int:
    """Print a table, or the description of one data set, and return 0."""
    from raum_lightning.datasets import load, presets
    from raum_lightning.datasets.known import FOLDER

    if args.name:
        print((FOLDER / f"{load(args.name).name}.yaml").read_text(encoding="utf-8"), end="")
        return 0
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "modalities", "labels", "regions", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name, dataset in presets().items():
        labels = ", ".join(f"{value} {label}" for value, label in dataset.labels.items())
        said = "in dataset.json" if dataset.index else ""
        table.add_row(name, " ".join(dataset.images) or said, labels or said, " ".join(dataset.regions))
    Console().print(table)
    print("\nraum datasets NAME prints the description of one, with its source")
    return 0

"""The option `--dataset` of several commands, which was called `--edition`."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

HELP = "auto (what the names of the files say), a name of `raum datasets`, a YAML file or a dataset.json"


class _Renamed(argparse.Action):
    """Accept an option under its former name, with a notice."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        new = f"--{self.dest.replace('_', '-')}"
        print(f"{option_string} is now {new}; the old name will be removed in the next release", file=sys.stderr)
        setattr(namespace, self.dest, values)


def add_dataset(
    parser: argparse.ArgumentParser, side: str = "", *, default: str | None = "auto", text: str = HELP
) -> None:
    """Add `--dataset`, or `--dataset-SIDE`, and the same under its old name, to a command."""
    name = f"dataset{side and '-'}{side}"
    parser.add_argument(f"--{name}", metavar="NAME", default=default, help=text)
    old = name.replace("dataset", "edition")
    dest = name.replace("-", "_")
    parser.add_argument(f"--{old}", dest=dest, action=_Renamed, help=argparse.SUPPRESS, default=argparse.SUPPRESS)

"""Options of the verbs that open a network from a file."""

import argparse
from collections.abc import Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raum_lightning.errors import ExportError
from raum_lightning.json_files import read_json

if TYPE_CHECKING:
    from raum_lightning.inference.card import ModelCard


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add `--trust`."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE",
        help="module, package or .py file whose networks the file may name, besides this package's and MONAI's: name "
        "only what you would import yourself; may be given several times",
    )


def add_trust_code(parser: argparse.ArgumentParser) -> None:
    """Add `--trust-code`."""
    parser.add_argument(
        "--trust-code", action="store_true", help="open a .pt2, which can run any code: do this for your own files only"
    )


def trust(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `raum_lightning.load` that these options give."""
    return {"trust": args.trust, "trust_code": getattr(args, "trust_code", False)}


def add_about(parser: argparse.ArgumentParser) -> None:
    """Add `--license` and `--results`, which model card and README say."""
    add = parser.add_argument
    add("--license", metavar="SPDX", help="under which the network is shared, such as Apache-2.0")
    add(
        "--results",
        type=Path,
        metavar="JSON",
        help="of raum evaluate or cross-validate: its scores with intervals stand in the README",
    )


def about(args: argparse.Namespace, sources: Sequence[Path]) -> dict[str, Any]:
    """Return what these options say of the card; check before any work that --out and its README can be written.

    `sources` are the files that are read, which --out may not replace.
    """
    from raum_lightning.inference.exported import SAFETENSORS
    from raum_lightning.inference.readme import WRITER, beside_of, evaluation_of
    from raum_lightning.runs.outputs import check_output

    said: dict[str, Any] = {"license": args.license} if args.license is not None else {}
    if args.results:
        said["evaluation"] = evaluation_of(read_json(args.results, ExportError), str(args.results))
    if args.out.resolve() in [path.resolve() for path in sources]:
        raise ExportError(f"{args.out}: is a file that is read, which it would replace; give another --out")
    check_output(args.out, WRITER, ours=_has_card)
    if args.out.suffix == SAFETENSORS:
        check_output(beside_of(args.out), WRITER)
    return said


def _has_card(path: Path) -> bool:
    """Return whether a file holds a model card, as all files have that these verbs write."""
    from raum_lightning.runs.checkpoints import MODEL_CARD

    with path.open("rb") as file:
        if not path.stat().st_size:
            return False
        with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            return content.find(MODEL_CARD.encode()) >= 0


def write_readme(path: Path, card: "ModelCard", networks: int = 1) -> None:
    """Write the README beside the safetensors file `path`, and say where."""
    from raum_lightning.inference.readme import readme, save_readme

    print(f"{save_readme(path, readme(card, networks))}: what a user must know, also in the file itself")

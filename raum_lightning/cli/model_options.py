"""Options of the verbs that open a network from a file."""

import argparse
from typing import Any


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

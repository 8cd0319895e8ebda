"""`raum ensemble`: several networks as one file for `raum segment`."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from raum_lightning.cli.model_options import about, add_about, add_trust, write_readme
from raum_lightning.errors import ExportError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add = parser.add_argument
    add(
        "members",
        type=Path,
        nargs="+",
        metavar="RUN_OR_CKPT",
        help="checkpoints, *.safetensors of `raum export`, or folders of runs, of which the best checkpoint is taken",
    )
    add("--out", type=Path, required=True, metavar="FILE", help="model.safetensors")
    add("--postprocess", metavar="YAML", help="how masks are cleaned, or none (default: as the members' cards say)")
    add_about(parser)
    add_trust(parser)


def run(args: argparse.Namespace) -> int:
    """Check that the members are of one kind, write them, and return 0."""
    from raum_lightning.inference.ensemble import write_ensemble
    from raum_lightning.inference.exported import SAFETENSORS
    from raum_lightning.postprocess import Postprocess

    if args.out.suffix != SAFETENSORS:
        raise ExportError(f"{args.out}: the name must end in {SAFETENSORS}")
    steps = None
    if args.postprocess is not None:
        steps = Postprocess() if args.postprocess == "none" else Postprocess.read(Path(args.postprocess))
    paths = list(_checkpoints(args.members))
    card = write_ensemble(paths, args.out, trust=args.trust, postprocess=steps, **about(args, paths))
    cleaned = Postprocess.of(card.postprocess or {})
    size = args.out.stat().st_size / 1e6
    print(f"{args.out}: {len(paths)} networks, {size:.1f} MB, masks cleaned: {cleaned}")
    write_readme(args.out, card, len(paths))
    return 0


def _checkpoints(members: list[Path]) -> Iterator[Path]:
    from raum_lightning.runs.folder import find_checkpoint

    for path in members:
        yield find_checkpoint(path.parent, None, path) if path.is_dir() else path

"""`raum phantom`: synthetic cases to try everything on."""

import argparse
from pathlib import Path

from raum_lightning.cli.dataset_option import add_dataset


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the cases")
    add_dataset(parser, default="brats2020", text="whose files and label values (default: %(default)s)")
    parser.add_argument("--cases", type=int, default=12, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides what the cases look like (default: %(default)s)")
    parser.add_argument(
        "--shape",
        type=int,
        nargs=3,
        default=(240, 240, 155),
        metavar=("X", "Y", "Z"),
        help="voxels along each axis; a smaller shape is the same head, sampled coarsely (default: 240 240 155)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the missing cases, print their number, and return 0."""
    import math
    import time

    from raum_lightning.cases.header import MAX_VOXELS
    from raum_lightning.datasets import load
    from raum_lightning.errors import ConfigError
    from raum_lightning.phantom import write_phantoms

    if math.prod(args.shape) > MAX_VOXELS:
        size = " x ".join(map(str, args.shape))
        raise ConfigError(f"a shape of {size} has more than the {MAX_VOXELS:,} voxels that are read; give less")
    start = time.perf_counter()
    written = write_phantoms(
        args.out, cases=args.cases, seed=args.seed, shape=tuple(args.shape), dataset=load(args.dataset)
    )
    seconds = time.perf_counter() - start
    print(f"{args.out}: {written} synthetic cases written, {args.cases - written} kept, {seconds:.1f} s")
    return 0

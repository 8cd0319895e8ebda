"""`raum export`: a checkpoint as one file to share, or one that segments without this package's training code."""

import argparse
from pathlib import Path

from raum_lightning.cli.model_options import about, add_about, add_trust, write_readme
from raum_lightning.errors import ExportError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `raum export`."""
    from raum_lightning.inference.export import FORMATS

    parser.epilog = (
        "To share a network with others, export safetensors or onnx: neither can run code when it is opened. "
        "A .pt2 can, so that raum segment opens it only with --trust-code."
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="CKPT", help="one of `raum fit`")
    add("--format", choices=FORMATS, help="what to write (default: as the name of --out says)")
    add("--out", type=Path, required=True, metavar="FILE", help="model.safetensors, model.onnx or model.pt2")
    add("--tolerance", type=float, default=1e-3, help="largest difference of a logit allowed (default: %(default)s)")
    add_about(parser)
    add_trust(parser)


def run(args: argparse.Namespace) -> int:
    """Export, print the largest difference from the checkpoint's logits, and return 0."""
    import time
    from dataclasses import replace

    from raum_lightning.inference.export import FORMATS, write
    from raum_lightning.inference.loading import open_network

    suffix = FORMATS.get(args.format, args.out.suffix)
    if args.out.suffix != suffix or suffix not in FORMATS.values():
        *others, last = (f"*{ending}" for ending in FORMATS.values())
        wanted = f"*{suffix}" if args.format else f"{', '.join(others)} or {last}"
        raise ExportError(f"{args.out}: the name must end in {wanted}")
    start = time.perf_counter()
    said = about(args, [args.checkpoint])
    trained = open_network(args.checkpoint, trust=args.trust)
    trained = replace(trained, card=replace(trained.card, **said))
    difference, largest = write(trained, args.out, tolerance=args.tolerance, trust=args.trust)
    print(
        f"{args.out}: logits differ by at most {difference:.1e} from the checkpoint's, which reach {largest:.1f}; "
        f"{args.out.stat().st_size / 1e6:.1f} MB, {time.perf_counter() - start:.1f} s"
    )
    if suffix == FORMATS["safetensors"]:
        write_readme(args.out, trained.card)
    return 0

"""`raum export`: a checkpoint as one file that segments without this package's training code."""

import argparse
from pathlib import Path

from raum_lightning.errors import ExportError


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `raum export`."""
    from raum_lightning.inference.export import FORMATS

    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="CKPT", help="one of `lightning fit`")
    add("--format", choices=FORMATS, help="what to write (default: as the name of --out says)")
    add("--out", type=Path, required=True, metavar="FILE", help="model.onnx or model.pt2")
    add("--tolerance", type=float, default=1e-3, help="largest difference of a logit allowed (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Exports, compares with the checkpoint, says how they differ, and returns 0."""
    import time

    from raum_lightning.inference.export import FORMATS, About, write
    from raum_lightning.inference.segmenter import load

    suffix = FORMATS.get(args.format, args.out.suffix)
    if args.out.suffix != suffix or suffix not in FORMATS.values():
        wanted = f"*{suffix}" if args.format else " or ".join(f"*{ending}" for ending in FORMATS.values())
        raise ExportError(f"{args.out}: let the name end in {wanted}")
    start = time.perf_counter()
    model = load(args.checkpoint, device="cpu")
    (network,) = model.networks
    case = {
        "modalities": list(model.modalities),
        "edition": model.edition.name,
        "orientation": model.frame.orientation,
        "spacing": list(model.frame.spacing),
    }
    about = About(case, model.mode, model.flips, model.windows)
    difference, largest = write(network, about, args.out, channels=len(model.modalities), tolerance=args.tolerance)
    print(
        f"{args.out}: logits differ by at most {difference:.1e} from the checkpoint's, which reach {largest:.1f}; "
        f"{args.out.stat().st_size / 1e6:.1f} MB, {time.perf_counter() - start:.1f} s"
    )
    return 0

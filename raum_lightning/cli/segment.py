"""`raum segment`: one case from its files to a mask, with nothing but a checkpoint."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raum_lightning.cli.model_options import add_trust, add_trust_code, trust
from raum_lightning.errors import ConfigError

if TYPE_CHECKING:
    from raum_lightning.cases.case import Case

MODALITIES = ("flair", "t1", "t1ce", "t2")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `raum segment`."""
    add = parser.add_argument
    add(
        *("--checkpoint", "--model"),
        type=Path,
        nargs="+",
        required=True,
        metavar="CKPT",
        help="one of `raum fit`, or .safetensors, .onnx or .pt2 of `raum export`; or several, which are averaged",
    )
    add("--case", type=Path, help="folder of the case, or a 4-D image that the dataset.json of MSD Task01 lists")
    for modality in MODALITIES:
        add(f"--{modality}", type=Path, metavar="NIFTI", help=f"{modality} of the case, instead of --case")
    add("--image", nargs=2, action="append", metavar=("MODALITY", "NIFTI"), help="a modality of any name; repeat it")
    add("--out", type=Path, required=True, metavar="NIFTI", help="mask to write, on the grid of the case")
    add("--probabilities", type=Path, metavar="NIFTI", help="write these too: X Y Z K, of each class or region")
    add("--figure", type=Path, help="draw a picture too: .png, .pdf or .svg")
    add("--flips", type=int, choices=(1, 2, 4, 8), help="copies of test-time augmentation (default: the checkpoint's)")
    add("--overlap", type=float, help="shared fraction of adjacent windows (default: the checkpoint's)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes a GPU where there is one")
    add("--precision", choices=("auto", "32-true", "bf16-mixed"), default="auto", help="auto is bf16 on a GPU")
    add("--compile", action="store_true", help="run the network under torch.compile")
    add("--postprocess", metavar="YAML", help="clean the mask as this file says, or none (default: the checkpoint's)")
    add(
        *("--dataset", "--edition"),
        dest="dataset",
        help="whose label values to write (default: the case's own; the training cases' where it is not recognised)",
    )
    add_trust(parser)
    add_trust_code(parser)


def run(args: argparse.Namespace) -> int:
    """Segment, write, say how much tumour there is, and return 0."""
    import time

    from raum_lightning.inference.segmenter import find, load
    from raum_lightning.progress import progress_bar

    source = _source(args)
    _check_figure(args)
    start = time.perf_counter()
    settings = {key: getattr(args, key) for key in ("dataset", "device", "precision", "flips", "overlap", "compile")}
    settings["postprocess"] = args.postprocess
    segmenter = load(args.checkpoint, **trust(args), **settings)
    case = find(source, args.dataset, segmenter.card.trained_on)
    _check_outputs(args, case)
    with progress_bar("segmenting") as progress:
        result = segmenter.segment(case, progress=progress)
    result.save(args.out)
    if args.probabilities:
        result.save_probabilities(args.probabilities)
    seconds = time.perf_counter() - start
    volumes = ", ".join(f"{region} {volume:.1f} ml" for region, volume in result.volumes.items())
    if segmenter.steps.plain:
        print(f"cleaned: {segmenter.steps} (--postprocess none leaves the mask as the network made it)")
    print(f"{args.out}: {volumes}; labels of {result.data_set.name}; {seconds:.1f} s on {segmenter.device}")
    if args.figure:
        _draw(result, args.figure)
    return 0


def _source(args: argparse.Namespace) -> Any:
    files = {modality: path for modality in MODALITIES if (path := getattr(args, modality))}
    files |= {modality: Path(path) for modality, path in args.image or ()}
    if bool(files) == bool(args.case):
        raise ConfigError("give either the case's folder as --case or its files as --flair, --t1, --t1ce and --t2")
    return args.case or files


def _check_outputs(args: argparse.Namespace, case: "Case") -> None:
    """Refuse what cannot be written, before the work rather than after it."""
    from raum_lightning.cases.case import is_ours, read_remark
    from raum_lightning.cases.nifti import ENDINGS, stem
    from raum_lightning.runs.outputs import check_output

    # a mask that this project wrote may be written anew
    reference = [case.label] if case.label and not read_remark(case.label) else []
    taken = {path.resolve(): "a file of the case" for path in (*case.images.values(), *reference)}
    for path in filter(None, (args.out, args.probabilities)):
        if not stem(path):
            raise ConfigError(f"{path}: is no name of a NIfTI file; let it end in {' or '.join(ENDINGS)}")
        if other := taken.get(path.resolve()):
            raise ConfigError(f"{path}: is {other}, which it would overwrite; give another name")
        taken[path.resolve()] = "what --out names"
        check_output(path, "raum segment", ours=is_ours)


def _check_figure(args: argparse.Namespace) -> None:
    if args.figure:
        from raum_lightning.figures import check_ending
        from raum_lightning.runs.outputs import check_output

        check_ending(args.figure)
        check_output(args.figure, "raum view")


def _draw(result: Any, path: Path) -> None:
    from raum_lightning.figures import Scan, draw, save

    case = result.case
    names = list(case.images)
    image, affine = case.read(names)
    images = dict(zip(names, image, strict=True))
    save(draw(Scan(case.id, images, affine, prediction=result.labels, dataset=result.case.dataset)), path)
    print(f"{path}: {case.id}")

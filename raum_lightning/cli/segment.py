"""`raum segment`: cases from their files to masks, with nothing but a checkpoint."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raum_lightning.cli.model_options import add_trust, add_trust_code, trust
from raum_lightning.cli.raw import add_raw
from raum_lightning.cli.segment_raw import check_options, segment_raw
from raum_lightning.errors import ConfigError

if TYPE_CHECKING:
    from raum_lightning.cases.case import Case
    from raum_lightning.inference.card import ModelCard
    from raum_lightning.inference.segmenter import Segmenter

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
        help="one of `raum fit`, or .safetensors, .onnx or .pt2 of `raum export`; or several, which are averaged; "
        "hf://organisation/name[/file] is a .safetensors on the hub",
    )
    add("--case", type=Path, help="folder of the case, or a 4-D image that the dataset.json of MSD Task01 lists")
    add("--cases", type=Path, metavar="DIR", help="folder of cases, instead of --case; what is done already is kept")
    for modality in MODALITIES:
        add(f"--{modality}", type=Path, metavar="NIFTI", help=f"{modality} of the case, instead of --case")
    add("--image", nargs=2, action="append", metavar=("MODALITY", "NIFTI"), help="a modality of any name; repeat it")
    add(
        "--out",
        type=Path,
        required=True,
        help="mask to write, on the grid of the case; with --cases a folder of them; with --raw .dcm too ([dicom])",
    )
    add(
        "--probabilities",
        type=Path,
        metavar="NIFTI",
        help="write these too: X Y Z K, of each class or region; with --cases a folder of <case>.npz for "
        "`raum postprocess`",
    )
    add("--uncertainty", type=Path, metavar="NIFTI", help="write the entropy of flips and networks too, 0 to 1")
    add("--figure", type=Path, help="draw a picture too: .png, .pdf or .svg")
    add("--flips", type=int, choices=(1, 2, 4, 8), help="copies of test-time augmentation (default: the checkpoint's)")
    add("--overlap", type=float, help="shared fraction of adjacent windows (default: the checkpoint's)")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="auto: CUDA if it is there")
    precisions = ("auto", "32-true", "bf16-mixed", "16-mixed")
    add("--precision", choices=precisions, default="auto", help="auto is bf16 on a GPU that has it")
    add("--compile", action="store_true", help="run the network under torch.compile")
    add("--postprocess", metavar="YAML", help="clean the mask as this file says, or none (default: the checkpoint's)")
    add(
        *("--dataset", "--edition"),
        dest="dataset",
        help="whose label values to write (default: the case's own; the training cases' where it is not recognised)",
    )
    add("--raw", action="store_true", help="the scans are raw: register them first, and write the mask on the T1ce")
    add_raw(parser)
    add_trust(parser)
    add_trust_code(parser)


def run(args: argparse.Namespace) -> int:
    """Segment, write, say how much tumour there is, and return 0; 1 where a case of several could not be segmented."""
    import time

    from raum_lightning.inference.hub import local
    from raum_lightning.inference.sources import find
    from raum_lightning.progress import progress_bar

    check_options(args)
    source = _source(args)
    args.checkpoint = [local(path) for path in args.checkpoint]
    if args.raw:
        return segment_raw(args, _load(args))
    if args.cases:
        return _segment_folder(args)
    _check_figure(args)
    start = time.perf_counter()
    segmenter = _load(args)
    case = find(source, args.dataset, segmenter.card.trained_on)
    _check_outputs(args, case)
    with progress_bar("segmenting") as progress:
        result = segmenter.segment(case, progress=progress)
    result.save(args.out)
    if args.probabilities:
        result.save_probabilities(args.probabilities)
    if args.uncertainty:
        from raum_lightning.inference.uncertainty import entropy

        result.save_map(args.uncertainty, entropy(result.probabilities, result.card.mode), "uncertainty: entropy")
    seconds = time.perf_counter() - start
    volumes = ", ".join(f"{region} {volume:.1f} ml" for region, volume in result.volumes.items())
    if result.missing:
        print(_without(result.missing, segmenter.card))
    if segmenter.steps.plain:
        print(f"cleaned: {segmenter.steps} (--postprocess none leaves the mask as the network made it)")
    print(f"{args.out}: {volumes}; labels of {result.data_set.name}; {seconds:.1f} s on {segmenter.device}")
    if args.figure:
        _draw(result, args.figure)
    return 0


def _load(args: argparse.Namespace) -> "Segmenter":
    from raum_lightning.inference.segmenter import load

    settings = ("dataset", "device", "precision", "flips", "overlap", "compile", "postprocess")
    return load(args.checkpoint, **trust(args), **{key: getattr(args, key) for key in settings})


def _segment_folder(args: argparse.Namespace) -> int:
    from raum_lightning.cases.discovery import find_cases
    from raum_lightning.inference.folder import check_targets, hash_files, segment_cases
    from raum_lightning.inference.uncertainty import Review
    from raum_lightning.progress import progress_bar
    from raum_lightning.runs.outputs import VOLUMES, check_folder

    check_folder(args.out, [VOLUMES])
    if args.probabilities:
        check_folder(args.probabilities)
    segmenter = _load(args)
    prefer = segmenter.card.trained_on
    cases = find_cases(args.cases, args.dataset or "auto", prefer=prefer if prefer.images else None, above=True)
    check_targets(cases, args.out)
    with progress_bar("segmenting cases") as progress:
        weights = hash_files(args.checkpoint)
        review = Review(args.out)
        chosen: dict[str, Any] = {"look": review.add, "probabilities": args.probabilities}
        outcome = segment_cases(segmenter, cases, args.out, weights=weights, progress=progress, **chosen)
    for name, missing in outcome.missing.items():
        print(f"{name}: {_without(missing, segmenter.card)}")
    if outcome.replaced:
        print(f"{len(outcome.replaced)} were of other weights, settings or images and are replaced")
    print(f"{args.out}: {len(outcome.written)} of {len(cases)} cases segmented, {len(outcome.kept)} were there already")
    done = {*outcome.written, *outcome.kept}
    _write_tables(segmenter, [case for case in cases if case.id in done], args.out)
    if review.own:
        review.write()  # once more, where another process has written between reading and writing
    if review.rows:
        print(f"{review.path}: the cases, those first that a person should look at first")
    if unseen := [name for name in outcome.kept if name not in review.rows]:
        print(
            f"{len(unseen)} that were there already are not in {review.path} ({', '.join(unseen[:5])}): "
            "segmented again, they are"
        )
    for case, problem in outcome.failed.items():
        print(f"{case} was not segmented: {problem}")
    return int(bool(outcome.failed))


def _write_tables(segmenter: "Segmenter", cases: Sequence["Case"], folder: Path) -> None:
    """Write volumes and the names of labels beside masks, as `lightning predict` does."""
    from raum_lightning.runs.outputs import VOLUMES
    from raum_lightning.training.callbacks.mask_tables import write_label_tables, write_volumes

    masks = {
        case.id: (folder / case.prediction_file, segmenter.card.labelling(case.dataset, segmenter.dataset))
        for case in cases
    }
    if masks:
        write_volumes(folder / VOLUMES, masks)
        write_label_tables(folder, {dataset.name: dataset for _, dataset in masks.values()}.values())


def _without(missing: Sequence[str], card: "ModelCard") -> str:
    return f"segmented without {card.without(missing)}, as the network has learnt to (data.modality_dropout)"


def _source(args: argparse.Namespace) -> Any:
    if args.raw:
        return None
    files = {modality: path for modality in MODALITIES if (path := getattr(args, modality))}
    files |= {modality: Path(path) for modality, path in args.image or ()}
    if [bool(files), bool(args.case), bool(args.cases)].count(True) != 1:
        raise ConfigError(
            "give either the case's folder as --case, its files as --flair, --t1, --t1ce and --t2, or a folder of "
            "cases as --cases"
        )
    if args.cases and (single := [name for name in ("figure", "uncertainty") if getattr(args, name)]):
        raise ConfigError(f"--{single[0]} is for one case; give it with --case instead of --cases")
    if args.cases and args.probabilities and args.probabilities.suffix in (".gz", ".nii"):
        raise ConfigError("--probabilities names a file, which holds one case; with --cases give a folder")
    return args.case or files


def _check_outputs(args: argparse.Namespace, case: "Case") -> None:
    """Refuse what cannot be written, before the work rather than after it."""
    from raum_lightning.cases.case import is_ours, read_remark
    from raum_lightning.cases.nifti import ENDINGS, stem
    from raum_lightning.runs.outputs import check_output

    # a mask that this project wrote may be replaced
    reference = [case.label] if case.label and not read_remark(case.label) else []
    taken = {path.resolve(): "a file of the case" for path in (*case.images.values(), *reference)}
    for path in filter(None, (args.out, args.probabilities, args.uncertainty)):
        if not stem(path):
            raise ConfigError(f"{path}: is not the name of a NIfTI file; it must end in {' or '.join(ENDINGS)}")
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
    predicted = result.card.translate(result.labels, result.data_set)
    save(draw(Scan(case.id, images, affine, prediction=predicted, dataset=result.data_set)), path)
    print(f"{path}: {case.id}")

"""`raum cross-validate`: from one configuration to out-of-fold predictions, their scores and their post-processing."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raum_lightning.atomic import expanded
from raum_lightning.cli.model_options import write_readme
from raum_lightning.errors import ConfigError

if TYPE_CHECKING:
    from raum_lightning.cases.case import Case
    from raum_lightning.cases.splits import Split
    from raum_lightning.data.datamodule import BratsDataModule
    from raum_lightning.runs.study_folder import StudyFolder
    from raum_lightning.studies.study import Study

# all other options are those of `raum fit`
FORWARDS = True
# options of `raum fit` that this verb sets for each fold, and what to give instead
OURS = {
    "data.fold": "every fold is trained",
    "data.folds": "give --folds",
    "run.id": "give --id",
    "ckpt_path": "folds that were begun are resumed by themselves",
    "out": "results lie in the folder of the cross-validation",
}
# what ends `raum fit` with an answer instead of a training
ASKS = ("print_config", "keys", "help")
# what the data module needs to find and split the cases
FOUND_BY = ("root", "modalities", "dataset", "exclude", "test_fraction", "splits", "prepared_dir")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb that are not those of `raum fit`."""
    parser.allow_abbrev = False
    parser.epilog = (
        "All other options are those of `raum fit`, such as -c FILE, --data.root DIR, --trainer.max_steps N."
    )
    add = parser.add_argument
    add("--folds", type=int, help="parts of the cross-validation (default: data.folds, or those of data.splits)")
    add("--id", help="name, after which the folder is called cv-ID (default: 5fold); the same name continues it")
    add("--parallel", type=int, default=1, metavar="N", help="folds that train at once and share GPUs or cores")
    add(
        "--slurm",
        type=Path,
        metavar="FILE",
        help='submit an array of jobs, each this script with the arguments of a fold as "$@" of its `lightning fit`, '
        "and a job after it for the rest",
    )
    add("--trained", action="store_true", help="train nothing: predict and score with the folds as they are")
    add(
        "--rules",
        default="auto",
        help="brats2020, brats2023, brats2023-men, brats2023-met, brats2024, brats2026; auto: the data set's",
    )
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="for predicting")
    add("--probabilities", action="store_true", help="write those of every case too, and search thresholds by them")
    add("--rescore", type=Path, metavar="DIR", help="only make the tables of this cross-validation again")


def run(args: argparse.Namespace) -> int:
    """Train what is not trained, predict what is not predicted, score, and return 0."""
    from raum_lightning.runs.folder import RunFolder
    from raum_lightning.runs.lock import locked

    _check(args)
    study = _again(args) if args.rescore else _begin(args)
    with locked(RunFolder(study.folder.path), "--id"):
        return _submit(study, args.slurm) if args.slurm else _finish(study, args)


def _finish(study: "Study", args: argparse.Namespace) -> int:
    from raum_lightning.progress import progress_bar
    from raum_lightning.studies.prediction import predict_folds
    from raum_lightning.studies.results import write_results
    from raum_lightning.studies.tables import number
    from raum_lightning.studies.training import accept_folds, train_folds
    from raum_lightning.studies.wandb_summary import log_summary

    if not args.rescore:
        study.write_config()
        if args.trained:
            accept_folds(study)
        else:
            train_folds(study, parallel=args.parallel)
        with progress_bar("predicting cases") as progress:
            chosen: dict[str, Any] = {"device": args.device, "probabilities": args.probabilities}
            predict_folds(study, progress=progress, **chosen)
    content = write_results(study, rules=args.rules)
    _join(study, content)
    if not args.rescore:
        log_summary(study.config, study.folder, content)
    summary = {"raw": content["summary"], "cleaned": content["cleaned"]["summary"]}
    for state, one in summary.items():
        dice = ", ".join(f"{part.upper()} {number(one[f'dice_{part}']['mean'], 3)}" for part in content["parts"])
        print(f"Dice, {state}: {dice}")
    print(f"results: {study.folder.results.with_suffix('.md')}")
    return 0


def _submit(study: "Study", script: Path) -> int:
    from raum_lightning.studies.slurm import submit

    study.write_config()
    array, after = submit(study, script, study.command)
    trains = f"job {array} trains the folds" if array else "all folds are trained"
    print(f"{trains}, job {after} makes {study.folder.results.with_suffix('.md')}")
    return 0


def _without(option: str, words: Sequence[str]) -> list[str]:
    """Return the words without an option and its value."""
    kept = list(words)
    while option in kept:
        place = kept.index(option)
        del kept[place : place + 2]
    return [word for word in kept if not word.startswith(f"{option}=")]


def _join(study: "Study", content: Mapping[str, Any]) -> None:
    """Write the ensemble of all folds; where they differ too much, say so: everything else is done."""
    from raum_lightning.errors import CheckpointError
    from raum_lightning.inference.ensemble import write_ensemble
    from raum_lightning.inference.readme import evaluation_of
    from raum_lightning.postprocess import Postprocess
    from raum_lightning.studies.prediction import trusted

    folds = [study.folder.checkpoint(fold) for fold in range(len(study.splits))]
    try:
        chosen: dict[str, Any] = {
            "postprocess": Postprocess.read(study.folder.post),
            "temperature": (content["calibration"] or {}).get("temperature"),
            "evaluation": evaluation_of(content, str(study.folder.results)),
        }
        card = write_ensemble(folds, study.folder.ensemble, trust=trusted(study), **chosen)
        print(f"ensemble: {study.folder.ensemble}")
        write_readme(study.folder.ensemble, card, len(folds))
    except CheckpointError as error:
        print(f"no ensemble: {error}")


def _check(args: argparse.Namespace) -> None:
    from raum_lightning.cli.known_keys import check_keys
    from raum_lightning.metrics import find_rules

    for word in args.forwarded:
        name = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and name in OURS:
            raise ConfigError(f"--{name} is set for each fold: {OURS[name]}")
        if word.startswith("--") and (name in ASKS or name.endswith(".help")):
            raise ConfigError(f"--{name} only asks; ask `raum fit`, which has the same options")
    if args.rescore and args.forwarded:
        raise ConfigError(f"--rescore takes everything from {args.rescore}; leave out {' '.join(args.forwarded)}")
    if args.slurm and (args.rescore or args.parallel > 1):
        raise ConfigError("--slurm trains all folds at once on the cluster; leave out --parallel and --rescore")
    if args.parallel < 1:
        raise ConfigError(f"--parallel {args.parallel} must be at least 1")
    check_keys("fit", args.forwarded)
    if args.rules != "auto":
        find_rules(args.rules)


def _begin(args: argparse.Namespace) -> "Study":
    """Return the study of the configuration, begun or continued."""
    from raum_lightning.cli.command_line import read_command_line
    from raum_lightning.cli.run_plan import experiment_of
    from raum_lightning.runs.naming import check_names
    from raum_lightning.runs.study_folder import StudyFolder
    from raum_lightning.studies.prediction import check_start
    from raum_lightning.studies.wandb_summary import group_folds

    config = _resolved(args.forwarded)
    given = read_command_line(args.forwarded).files
    files = given.files
    data = _data(config)
    folds = _count_folds(args.folds, config, data)
    experiment = config["run"].get("experiment") or experiment_of(files)
    if args.id is not None:
        check_names(experiment, args.id)
    folder = StudyFolder(expanded(config["run"]["root"]) / experiment / f"cv-{args.id or f'{folds}fold'}")
    group_folds(config, folder)
    study = _study(folder, config, data, folds, _without("--slurm", args.words), given.folders)
    if not folder.study.exists():  # whose folds have their weights
        check_start(study)
    study.begin()
    if held_out := len(study.splits[0].test):
        print(f"{held_out} test cases are held out from every fold; --data.test_fraction 0 validates them too")
    return study


def _again(args: argparse.Namespace) -> "Study":
    """Return the study of a folder."""
    from raum_lightning.cli.own_code import find_beside
    from raum_lightning.errors import RunError
    from raum_lightning.runs.study_folder import StudyFolder
    from raum_lightning.yaml_files import read_yaml

    folder = StudyFolder(args.rescore)
    if not folder.study.exists():
        raise RunError(f"{args.rescore}: is not the folder of a cross-validation (no {folder.study.name})")
    config: dict[str, Any] = read_yaml(folder.config)[0]
    said = folder.begun
    config["data"]["splits"] = str(folder.splits)
    code = [Path(path) for path in said["code"]]
    find_beside(code)
    study = _study(folder, config, _data(config), folder.count_folds(), said["command"], code)
    study.check_data()
    return study


def _resolved(words: Sequence[str]) -> dict[str, Any]:
    """Return the whole configuration that `raum fit` would have, checked by the same parser."""
    import io
    from contextlib import redirect_stdout

    import yaml

    from raum_lightning.cli.trainer import run_trainer

    text = io.StringIO()
    try:
        with redirect_stdout(text):
            run_trainer(["fit", *words, "--print_config"])
    except SystemExit as ended:
        if ended.code:
            raise
    config: dict[str, Any] = yaml.safe_load(text.getvalue())
    return config


def _data(config: Mapping[str, Any]) -> "BratsDataModule":
    from raum_lightning.data.datamodule import BratsDataModule

    given = config["data"]
    known = {key: given[key] for key in FOUND_BY if given.get(key) is not None}
    return BratsDataModule(**known | ({"dataset": given["edition"]} if given.get("edition") else {}))


def _count_folds(asked: int | None, config: Mapping[str, Any], data: "BratsDataModule") -> int:
    """Return how many folds there are; raise `SplitError` for a number that cannot be."""
    from raum_lightning.cases.splits import check_folds
    from raum_lightning.errors import SplitError
    from raum_lightning.json_files import read_json

    path = data.splits or (data.root / data.dataset.splits if data.dataset.splits else None)
    if path is None or not path.is_file():
        folds = asked if asked is not None else int(config["data"]["folds"])
        check_folds(folds, 0, data.test_fraction)
        return folds
    content = read_json(path, SplitError)
    if not isinstance(content, list) or len(content) < 2:
        raise SplitError(f"{path}: holds one split; a cross-validation takes a list with one for each fold")
    if asked not in (None, len(content)):
        raise SplitError(f"{path}: holds {len(content)} folds and --folds is {asked}; leave out --folds")
    return len(content)


def _study(
    folder: "StudyFolder",
    config: Mapping[str, Any],
    data: "BratsDataModule",
    folds: int,
    command: Sequence[str],
    code: Sequence[Path],
) -> "Study":
    from raum_lightning.studies.study import Study

    splits: list[Split] = []
    cases: dict[str, Case] = {}
    data.folds = folds
    for fold in range(folds):
        data.fold = fold
        data.select(announce=fold == 0)
        splits.append(data.split)
        cases |= data.cases
    return Study(folder, config, splits, cases, data.modalities, command, [str(path.resolve()) for path in code])

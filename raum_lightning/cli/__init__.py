"""The programs `lightning` and `raum`: one entry for all verbs, each loaded only when it is called."""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from signal import SIGTERM
from types import ModuleType

from raum_lightning import __version__
from raum_lightning.atomic import expanded
from raum_lightning.signals import Terminated, stopping

TRAINER_VERBS = {
    "fit": "train a network on cases, as a YAML file says",
    "validate": "score a checkpoint on the validation cases",
    "test": "score a checkpoint on the held-out test cases",
    "predict": "segment cases with a checkpoint, one NIfTI each",
}
# each is a module of raum_lightning.cli with configure(parser) and run(arguments) -> exit code
TOOL_VERBS = {
    "datasets": "list the data sets that are known by name, or print the description of one",
    "plan": "measure what a training needs: memory, time, disk, and the keys that make it fit",
    "init": "write experiments, data sets and SLURM files to edit",
    "phantom": "write synthetic cases in the layout of a data set",
    "check": "read every case and say what is wrong with which",
    "prepare": "prepare cases for training, and remove prepared ones that no case needs",
    "prepare-case": "register the scans of one examination to each other, as a case",
    "segment": "segment cases with a checkpoint, onto their own grids",
    "export": "write a checkpoint's network as safetensors, ONNX or torch.export, checked against it",
    "import": "take weights of MONAI's UNETR as a file of ours, or give ours back",
    "evaluate": "score a folder of segmentations against references",
    "subsets": "score a checkpoint with each choice of its modalities",
    "ablate": "score a checkpoint without each block of its transformer, and without all",
    "postprocess": "find how masks are best cleaned, and clean them",
    "cross-validate": "train every fold, predict each case by the fold that has not seen it, score and clean",
    "compare": "compare the scores of several methods on the same cases, with tests and intervals",
    "wandb-workspace": "lay out the dashboard of a cross-validation in W&B",
    "ensemble": "join several networks into one file, with post-processing and model card",
    "view": "draw a case, its mask and a prediction",
    "doctor": "say what a run here stands on: programs, versions, devices, W&B, disk",
    "completion": "print a script with which the shell completes verbs and keys",
    "report": "make one page of a run: curves, scores, pictures, configuration",
}


def main(args: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0, 1 for a finding, 2 for a mistake, 130 for Ctrl-C, 143 for SIGTERM."""
    words = list(sys.argv[1:] if args is None else args)
    return _guarded(words[0] if words else "--help", words[1:])


def _help() -> str:
    lines = ["usage: raum VERB ...   (`lightning` is the same program; `raum VERB --help` explains one)", ""]
    lines += [f"  {verb:<15} {text}" for verb, text in {**TRAINER_VERBS, **TOOL_VERBS}.items()]
    lines += [
        "  --version      print the version",
        "",
        "example: lightning fit -c experiments/unetr.yaml --data.root BraTS2020",
        "",
        "With RAUM_TRACEBACK=1 in the environment an error shows where in the program it was raised.",
    ]
    return "\n".join(lines)


def _guarded(verb: str, words: list[str]) -> int:
    """Run a verb; say in one sentence what a user can mend, and leave every defect its traceback."""
    try:
        # the trainer's verbs save and resume, and take signals themselves
        with nullcontext() if verb in TRAINER_VERBS else stopping():
            code = _run(verb, words)
        if sys.stdout:  # none where the caller has closed it
            sys.stdout.flush()
        return code
    except Terminated:
        print("terminated", file=sys.stderr)
        return 128 + SIGTERM
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        if verb in TRAINER_VERBS:
            raise
        _drop_output()  # whoever read it has left, as `head` does
        return 141
    except SystemExit as error:
        # Lightning's trainer answers Ctrl-C by leaving with 1
        if isinstance(error.__context__, KeyboardInterrupt) and error.code == 1:
            return _interrupted()
        raise
    except Exception as error:
        from raum_lightning.cases.ids import printable
        from raum_lightning.cli.errors import explain, located

        sentence = explain(error)
        if sentence is None or "RAUM_TRACEBACK" in os.environ:
            raise
        said = printable(located(sentence), keep="\n")
        print(f"error: {said}\n", end="", file=sys.stderr)  # in one piece, as other ranks may write too
        if isinstance(error, OSError) and error.filename is None:
            _drop_output()  # which may be what could not be written
        return 2


def _drop_output() -> None:
    """Write what can no longer be printed nowhere, so that Python does not try it once more as it ends."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _interrupted() -> int:
    print("interrupted", file=sys.stderr)
    return 130


def _run(verb: str, words: list[str]) -> int:
    if verb in ("-h", "--help"):
        print(_help())
        return 0
    if verb == "--version":
        print(f"raum {__version__}")
        return 0
    if verb not in TRAINER_VERBS and verb not in TOOL_VERBS:
        print(f"error: there is no verb {verb!r}\n\n{_help()}", file=sys.stderr)
        return 2
    if verb == "fit" and "--plan" in words:
        return _run("plan", [word for word in words if word != "--plan"])
    if verb in TRAINER_VERBS:
        if not {"-h", "--help"}.intersection(words):
            from raum_lightning.cli.known_keys import check_keys

            check_keys(verb, words)
        from raum_lightning.cli.trainer import run_trainer

        return run_trainer([verb, *words])
    command, arguments = parse(verb, words)
    code: int = command.run(arguments)
    return code


def module_of(verb: str) -> ModuleType:
    """Return the module of a verb that is no trainer's."""
    return import_module(f"raum_lightning.cli.{verb.replace('-', '_')}")


def parse(verb: str, words: list[str]) -> tuple[ModuleType, argparse.Namespace]:
    """Return the module of a verb that is no trainer's, and its arguments.

    One that `FORWARDS` gets the words that it does not know, which are for `raum fit`, as `forwarded`, and all as
    `words`.
    """
    command = module_of(verb)
    parser = argparse.ArgumentParser(prog=f"raum {verb}", description=TOOL_VERBS[verb])
    command.configure(parser)
    if getattr(command, "FORWARDS", False):
        arguments, forwarded = parser.parse_known_args(words)
        arguments.forwarded, arguments.words = forwarded, words
    else:
        arguments = parser.parse_args(words)
    for name, value in vars(arguments).items():
        if isinstance(value, Path):  # of --out=~/masks the shell leaves ~ as it is
            setattr(arguments, name, expanded(value))
    return command, arguments

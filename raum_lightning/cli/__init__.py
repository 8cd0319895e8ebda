"""The programs `lightning` and `raum`: one entry for all verbs, each loaded only when it is called."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from raum_lightning import __version__

TRAINER_VERBS = {
    "fit": "train a network on cases, as a YAML file says",
    "validate": "score a checkpoint on the validation cases",
    "test": "score a checkpoint on the held-out test cases",
    "predict": "segment cases with a checkpoint, one NIfTI each",
}
# each is a module of raum_lightning.cli with configure(parser) and run(arguments) -> exit code
TOOL_VERBS = {
    "phantom": "write synthetic cases in BraTS 2020 layout",
    "check": "read every case and say what is wrong with which",
    "segment": "segment one case with a checkpoint, onto its own grid",
    "export": "write a checkpoint's network as ONNX or torch.export, checked against it",
    "evaluate": "score a folder of segmentations against references",
    "view": "draw a case, its mask and a prediction",
    "report": "make one page of a run: curves, scores, pictures, configuration",
}


def main(args: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code: 0, 1 for a finding, 2 for a user's mistake."""
    words = list(sys.argv[1:] if args is None else args)
    verb = words[0] if words else "--help"
    if verb in ("-h", "--help"):
        print(_help())
    elif verb == "--version":
        print(f"raum {__version__}")
    elif verb in TRAINER_VERBS or verb in TOOL_VERBS:
        return _guarded(verb, words[1:])
    else:
        print(f"error: there is no verb {verb!r}\n\n{_help()}", file=sys.stderr)
        return 2
    return 0


def _help() -> str:
    lines = ["usage: raum VERB ...   (`lightning` is the same program; `raum VERB --help` explains one)", ""]
    lines += [f"  {verb:<10} {text}" for verb, text in {**TRAINER_VERBS, **TOOL_VERBS}.items()]
    lines += [
        "  --version  print the version",
        "",
        "example: lightning fit -c experiments/unetr.yaml --data.root BraTS2020",
        "",
        "With RAUM_TRACEBACK=1 in the environment an error shows where in the program it was raised.",
    ]
    return "\n".join(lines)


def _guarded(verb: str, words: list[str]) -> int:
    """Runs a verb; what is the user's to mend is said in one sentence."""
    try:
        return _run(verb, words)
    except (ValueError, OSError) as error:
        sentence = _sentence(error)
        if sentence is None or "RAUM_TRACEBACK" in os.environ:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 2


def _sentence(error: ValueError | OSError) -> str | None:
    """Of a `ValueError` that this package raises, or a file that cannot be read or written; None for other failures."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename is not None and error.strerror else None
    frames = traceback.extract_tb(error.__traceback__)
    return str(error) if Path(frames[-1].filename).is_relative_to(Path(__file__).parents[1]) else None


def _run(verb: str, words: list[str]) -> int:
    if verb in TRAINER_VERBS:
        from raum_lightning.cli.trainer import run_trainer

        return run_trainer([verb, *words])
    command = import_module(f"raum_lightning.cli.{verb}")
    parser = argparse.ArgumentParser(prog=f"raum {verb}", description=TOOL_VERBS[verb])
    command.configure(parser)
    code: int = command.run(parser.parse_args(words))
    return code

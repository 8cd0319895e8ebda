"""The folds of a cross-validation as an array of SLURM jobs, and a job after them that makes the results."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raum_lightning.atomic import write_text
from raum_lightning.errors import ConfigError, RunError
from raum_lightning.studies.study import FREE_GROUPS, Study
from raum_lightning.studies.training import environment_of, fit_words, is_finished, note

# of the job after the array, whatever the script asks for
_ALONE = ("--nodes=1", "--ntasks=1", "--ntasks-per-node=1")
# what a script says of its cluster, besides what is free in a cross-validation
_OF_CLUSTER = ("trainer.accelerator", "trainer.num_nodes", "trainer.strategy", "data.num_workers", "data.prepared_dir")


def submit(study: Study, script: Path, words: Sequence[str]) -> tuple[str | None, str]:
    """Submit an array that trains what is not trained, and a job after it; return their numbers.

    `script` is one that trains: it ends in `lightning fit ... "$@"`. Its `#SBATCH` lines hold for both. Each job of the
    array runs it with the words of its fold; the job after it runs `raum cross-validate WORDS --trained`. Without a
    fold left to train there is no array.

    Raises:
        ConfigError: The script cannot be read, or passes no arguments on.
        RunError: `sbatch` is not there or refuses.
    """
    header, body = _parts(script)
    folds = [fold for fold in range(len(study.splits)) if not is_finished(study, fold)]
    array, after = None, list[str]()
    if folds:
        chosen = study.folder.path / "array.sbatch"
        write_text(chosen, "\n".join([*header, *_choose(study, folds, body), *body]) + "\n")
        array = _sbatch(f"--array={','.join(map(str, folds))}", str(chosen))
        after = [f"--dependency=afterok:{array}", "--kill-on-invalid-dep=yes"]
        for fold in folds:
            note(study, fold, started=time.time(), slurm=int(array))
    collect = study.folder.path / "collect.sbatch"
    command = shlex.join([sys.executable, "-m", "raum_lightning", "cross-validate", *words, "--trained"])
    write_text(collect, "\n".join([*header, f"exec {command}"]) + "\n")
    return array, _sbatch(*after, *_ALONE, str(collect))


def _parts(script: Path) -> tuple[list[str], list[str]]:
    """Return the comments at the top of a script, among them its options of SLURM, and the rest."""
    try:
        lines = script.read_text().splitlines()
    except OSError as error:
        raise ConfigError(f"--slurm {script}: cannot be read ({error.strerror})") from None
    if not any('"$@"' in line for line in lines):
        raise ConfigError(f'--slurm {script}: passes no arguments on; let it end in `lightning fit ... "$@"`')
    end = next((number for number, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    return lines[:end], lines[end:]


def _choose(study: Study, folds: Sequence[int], body: Sequence[str]) -> list[str]:
    """Return the lines that give a job of the array the arguments of its fold."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment_of(study).items()]
    typed = _typed(study, body)
    chosen = [f"{fold}) set -- {shlex.join([*typed, *fit_words(study, fold)[1:]])} ;;" for fold in folds]
    return [*exports, 'case "$SLURM_ARRAY_TASK_ID" in', *chosen, "esac"]


def _typed(study: Study, body: Sequence[str]) -> list[str]:
    """Return options that set what the script types back to what the cross-validation was begun with.

    An option counts before a file, and of two the later: without these the script's own would decide. It keeps what
    says on how many devices and nodes a fold trains.
    """
    lines = [line for line in body if not line.lstrip().startswith("#")]
    named = dict.fromkeys(re.findall(r"--((?:module|data|trainer)\.[\w.]+)", "\n".join(lines)))
    words = []
    for key in named:
        if key in _OF_CLUSTER or key.startswith(FREE_GROUPS):
            continue
        value: Any = study.config
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise ConfigError(
                    f"--slurm: the script gives {key}, by which its folds would differ from the cross-validation; "
                    "leave it out there and give it to `raum cross-validate`"
                )
            value = value[part]
        words.append(f"--{key}={value if isinstance(value, str) else json.dumps(value)}")
    return words


def _sbatch(*words: str) -> str:
    # of the job in which this may run itself, a new one inherits nothing
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_JOB", "SBATCH_"))}
    try:
        done = subprocess.run(["sbatch", "--parsable", *words], capture_output=True, text=True, env=outside)
    except FileNotFoundError:
        raise RunError("--slurm: there is no sbatch on this machine; start it where jobs are submitted") from None
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise RunError(f"--slurm: sbatch refuses ({reason})")
    return done.stdout.strip().partition(";")[0]

"""Run every command twice at the same time, writing to the same place, and print how both end and what they leave.

python -m tests.fuzz.two_at_once          # or with the first words of the commands

A pair does right where both end with exit code 0, or one is refused in a sentence with exit code 2, and no temporary
or empty file is left.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.fuzz.full_disk import commands, left, prepare


def judge(words: list[Any], full: Path) -> tuple[bool, str]:
    """Run a command in two processes; return whether they do right, and how they ended."""
    run = [sys.executable, "-m", "raum_lightning", *map(str, words)]
    environment = os.environ | {"COLUMNS": "400", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=600)[0] for process in started]
    codes = sorted(process.returncode for process in started)
    refusals = [line for text in said for line in text.splitlines() if line.startswith("error: ")]
    wrong = left(full)
    right = codes in ([0, 0], [0, 2]) and len(refusals) == codes.count(2) and not wrong
    return right, "; ".join([f"exit codes {codes}", *refusals, *(f"leaves {name}" for name in wrong)])


def run() -> int:
    """Print the table; return 1 where a pair does wrong."""
    failed, chosen = 0, sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(work)
        print("| command | twice at once |\n|---|---|")
        for number, name in enumerate(commands(work, work)):
            if chosen and name.split()[0] not in chosen:
                continue
            full = work / f"pair{number}"
            full.mkdir()
            right, said = judge(commands(work, full)[name], full)
            failed += not right
            print(f"| `{name}` | {said if right else f'**WRONG** {said}'} |", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(run())

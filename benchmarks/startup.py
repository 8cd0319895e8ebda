"""What starting costs: ours against the least that could be done, in alternating runs of fresh processes.

    python benchmarks/startup.py [--repeats 9]

Per program: the median seconds from start to exit, the median seconds of CPU time, and the ratio of each to those of
what it is compared with. Every rank of a run pays this before its first step.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

BIN = Path(sys.executable).parent
NOTHING, TORCH = "python -c pass", 'python -c "import torch"'
PROGRAMS = {
    NOTHING: [sys.executable, "-c", "pass"],
    "raum --version": [str(BIN / "raum"), "--version"],
    TORCH: [sys.executable, "-c", "import torch"],
    "lightning --help": [str(BIN / "lightning"), "--help"],
    "lightning fit --help": [str(BIN / "lightning"), "fit", "--help"],
}
# program -> what it is compared with, and the ratio it must stay below
BARS = {
    "raum --version": (NOTHING, 3.0),
    "lightning --help": (TORCH, 1.5),
    "lightning fit --help": (TORCH, None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="runs of each program (default: %(default)s)")
    repeats = parser.parse_args().repeats
    rounds = [{name: once(command) for name, command in PROGRAMS.items()} for _ in range(repeats + 1)][1:]
    wall, cpu = ({name: median(r[name][kind] for r in rounds) for name in PROGRAMS} for kind in (0, 1))
    print(f"medians of {repeats} runs, Python {sys.version.split()[0]}, {os.cpu_count()} cores")
    print(f"{'':22}{'seconds':>9}{'CPU':>9}{'ratio':>8}{'CPU':>8}{'bar':>6}  of")
    for name in PROGRAMS:
        line = f"{name:22}{wall[name]:9.3f}{cpu[name]:9.3f}"
        if name in BARS:
            other, bar = BARS[name]
            line += f"{wall[name] / wall[other]:8.2f}{cpu[name] / cpu[other]:8.2f}{bar or '':>6}  {other}"
        print(line)


def once(command: list[str]) -> tuple[float, float]:
    """Seconds, and seconds of CPU time, of one process."""
    before, start = os.times(), perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds, after = perf_counter() - start, os.times()
    return seconds, after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    main()

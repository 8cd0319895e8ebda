"""What `raum plan` says of a training against what it takes: peak of memory, and seconds a step with its data.

    python benchmarks/plan.py [--steps 20] [--only NAME]

Each configuration is planned, and then trained for some steps on synthetic cases with one validation, each in a process
of its own, on the CPU. The ratio is that of the plan to the training; between 0.85 and 1.15 the plan is good. Seconds
count on a quiet machine alone.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
RAUM = [sys.executable, "-m", "raum_lightning"]
BATCH = 2
SMALLER = ["--data.batch_size", str(BATCH), "--data.roi_size", "[64,64,64]", "--module.roi_size", "[64,64,64]"]
V2 = {"embed_dim": 96, "depth": 4, "num_heads": 4, "mlp_dim": 256, "out_indices": "[1,2,4]", "feature_size": 16}
CONFIGURATIONS = {
    "phantom": ["-c", "phantom.yaml"],
    "unetr_v2": [
        *("-c", "unetr_v2.yaml", *SMALLER),
        *(word for key, value in V2.items() for word in (f"--module.network.init_args.{key}", str(value))),
    ],
    "segresnet": ["-c", "baselines/segresnet.yaml", *SMALLER, "--module.network.init_args.init_filters", "16"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="steps of each training (default: %(default)s)")
    parser.add_argument("--only", choices=tuple(CONFIGURATIONS), help="one configuration instead of all")
    given = parser.parse_args()
    print(f"{'':12}{'plan MiB':>10}{'fit MiB':>10}{'ratio':>7}{'plan s':>9}{'fit s':>9}{'ratio':>7}")
    with TemporaryDirectory() as folder:
        place = Path(folder)
        run([*RAUM, "phantom", str(place / "cases"), "--cases", "6", "--shape", "96", "96", "80"], place)
        for name in [given.only] if given.only else CONFIGURATIONS:
            words = [str(EXPERIMENTS / word) if word.endswith(".yaml") else word for word in CONFIGURATIONS[name]]
            words += ["--data.root", str(place / "cases"), "--trainer.accelerator", "cpu", "--data.num_workers", "0"]
            planned, its_seconds = plan(words, place)
            peak, seconds = fit(words, place, name, given.steps)
            print(
                f"{name:12}{planned:10.0f}{peak:10.0f}{planned / peak:7.2f}"
                f"{its_seconds:9.3f}{seconds:9.3f}{its_seconds / seconds:7.2f}",
                flush=True,
            )


def plan(words: list[str], place: Path) -> tuple[float, float]:
    """Return what `raum plan` says: MiB at the peak, and seconds a step with those in which its batch is made."""
    _, said = run([*RAUM, "plan", *words], place)
    found = re.search(r"peak ([\d.]+) of .* GiB, (\S+) s a step", said)
    data = re.search(r"data: (\S+) patches a second", said)
    assert found and data, said
    return float(found[1]) * 1024, float(found[2]) + BATCH / float(data[1])


def fit(words: list[str], place: Path, name: str, steps: int) -> tuple[float, float]:
    """Return what a training takes: MiB at the peak of its process, and the median of seconds a step."""
    ends = ["--trainer.max_steps", str(steps), "--trainer.log_every_n_steps", "1", "--run.id", name]
    ends += ["--data.patches_per_epoch", str(BATCH * steps), "--data.test_fraction", "0", "--module.warmup_steps", "2"]
    ends += ["--trainer.check_val_every_n_epoch", "1"]
    logger = ["--trainer.logger.class_path", "raum_lightning.loggers.CSVLogger", "--run.root", str(place / "runs")]
    peak, _ = run([*RAUM, "fit", *words, *ends, *logger], place)
    (table,) = (place / "runs").glob(f"*/{name}/metrics.csv")
    with table.open() as file:
        rates = [float(row["perf/patches_per_s"]) for row in csv.DictReader(file) if row.get("perf/patches_per_s")]
    return peak, BATCH / median(rates)


def run(command: list[str], place: Path) -> tuple[float, str]:
    """Run a program and return MiB at the peak of its own process, and what it printed."""
    with (place / "said.txt").open("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, cwd=place)
        _, status, usage = os.wait4(process.pid, 0)
        said.seek(0)
        text = said.read()
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{text}")
    return usage.ru_maxrss / (1 if sys.platform != "darwin" else 1024) / 1024, text


if __name__ == "__main__":
    main()

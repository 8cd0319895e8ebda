"""Run every command that writes on a disk that is full, and print what each says and leaves as a table.

sudo .venv/bin/python -m tests.fuzz.full_disk     # as root: it mounts a small tmpfs in a new temporary folder

Each command writes below a tmpfs with `FREE` kB left. It does right where it ends with exit code 2 (1 where other cases
went on), one sentence that names a file, and no empty or half-written file under a final name; or, where it needs less,
with exit code 0.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from monai.networks import nets

from raum_lightning.cli import main
from tests.helpers.handmade import fit_handmade

# kB that are left, and all that the disk holds
FREE, SIZE = (0, 40, 200), 400
TRUST = ("--trust", "tests.helpers.handmade")


def commands(work: Path, full: Path) -> dict[str, list[Any]]:
    """Return the words of each command that writes into `full`, by what `fit_handmade` left in `work`."""
    cases = work / "runs/phantom-cases"
    checkpoint = work / "runs/debug/handmade/checkpoints/last.ckpt"
    case = cases / "BraTS20_Training_001"
    run = [
        *("-c", work / "runs/debug/handmade/config.yaml", "--trainer.logger", "false"),
        *("--data.root", cases, "--data.prepared_dir", work / "runs/prepared"),
    ]
    verb = [*run, "--ckpt_path", checkpoint, "--out", full / "out"]
    sides = ["--predictions", work / "predictions", "--references", cases]
    arguments, steps = ["--heads", "2"], work / "steps.yaml"
    short = ["--trainer.max_steps", "1", "--data.test_fraction", "0"]
    return {
        "phantom": ["phantom", full / "cases", "--cases", "2", "--shape", "56", "56", "48"],
        "prepare": ["prepare", cases, "--prepared_dir", full / "prepared"],
        "check --cache": ["check", cases, "--cache", full / "cache"],
        "fit": ["fit", *run, "--run.root", full / "runs", "--run.id", "a", "--trainer.max_steps", "1"],
        "fit, prepared_dir": ["fit", *run, "--run.root", work / "more", "--data.prepared_dir", full / "prepared"],
        "validate": ["validate", *verb],
        "test": ["test", *verb],
        "predict": ["predict", *verb],
        "segment": ["segment", "--checkpoint", checkpoint, "--case", case, "--out", full / "seg.nii.gz", *TRUST],
        "segment --cases": ["segment", "--checkpoint", checkpoint, "--cases", cases, "--out", full / "masks", *TRUST],
        "export .safetensors": ["export", "--checkpoint", checkpoint, "--out", full / "net.safetensors", *TRUST],
        "export .onnx": ["export", "--checkpoint", checkpoint, "--out", full / "net.onnx", *TRUST],
        "ensemble": ["ensemble", checkpoint, checkpoint, "--out", full / "both.safetensors", *TRUST],
        "evaluate --out": ["evaluate", *sides, "--metrics", "dice", "--out", full / "scores.json"],
        "postprocess fit": ["postprocess", "fit", *sides, "--out", full / "post.yaml"],
        "init": ["init", full / "mine"],
        "import": ["import", "--to", "monai", work / "unetr.safetensors", "--out", full / "monai.pt"],
        "import --from": ["import", "--from", "monai", work / "monai.pt", *arguments, "--out", full / "n.safetensors"],
        "compare": [
            "compare",
            *[work / "scores.json"] * 2,
            "--names",
            "a",
            "b",
            "--metrics",
            "dice",
            "--out",
            full / "compared.json",
        ],
        "postprocess apply": ["postprocess", "apply", *sides[:2], "--postprocess", steps, "--out", full / "cleaned"],
        "cross-validate": ["cross-validate", *run, "--run.root", full / "runs", "--folds", "2", *short],
        "view": ["view", case, "--out", full / "case.png"],
        "report": ["report", work / "runs/debug/handmade", "--out", full / "report.html"],
    }


@contextmanager
def disk(free: int) -> Iterator[Path]:
    """Mount a tmpfs of which `free` kB are left; yield a folder on it."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}k", "tmpfs", folder], check=True)
        try:
            (Path(folder) / "filler").write_bytes(bytes((SIZE - free) * 1024))
            (Path(folder) / "x").mkdir()
            yield Path(folder) / "x"
        finally:
            subprocess.run(["umount", folder], check=True)


def left(folder: Path) -> list[str]:
    """Return files under a final name that are empty, and temporary ones, which are to be removed."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path.relative_to(folder)) for path in files if path.name.startswith(".") or not path.stat().st_size]


def judge(words: list[Any], full: Path) -> tuple[bool, str]:
    """Run a command; return whether it does right, and what it said and left."""
    run = [sys.executable, "-m", "raum_lightning", *map(str, words)]
    environment = os.environ | {"COLUMNS": "400"}
    done = subprocess.run(run, capture_output=True, text=True, env=environment, timeout=600)
    said = done.stdout + done.stderr
    wrong = left(full)
    if done.returncode == 0:
        return not wrong, f"0: it fits{', but leaves ' * bool(wrong)}{', '.join(wrong)}"
    sentence = next((line for line in reversed(said.splitlines()) if "No space" in line), said.strip()[-200:])
    right = done.returncode in (1, 2) and "Traceback" not in said and "No space" in sentence and not wrong
    sentence = re.sub(re.escape(str(full.parent)), "DISK", sentence)
    return right, f"{done.returncode}: {sentence.strip()}{'; leaves ' * bool(wrong)}{', '.join(wrong)}"


def prepare(work: Path) -> None:
    """Write what the commands read: cases, a run, masks, scores, and weights of MONAI's UNETR."""
    fit_handmade(work)
    (work / "predictions").mkdir()
    # not the network's, whose thousands of components keep the search for steps busy
    for mask in (work / "runs/phantom-cases").rglob("*_seg.nii*"):
        shutil.copy(mask, work / "predictions" / mask.name)
    (work / "steps.yaml").write_text("holes: [WT]\n")
    evaluate = ["evaluate", *commands(work, work)["evaluate --out"][1:-1], work / "scores.json"]
    assert main([*map(str, evaluate)]) == 0
    size = {"feature_size": 4, "hidden_size": 24, "mlp_dim": 48, "num_heads": 2}
    torch.save(nets.UNETR(3, 4, 32, **size).state_dict(), work / "monai.pt")
    taken = ["import", "--from", "monai", work / "monai.pt", "--heads", "2", "--out", work / "unetr.safetensors"]
    card = ["--modalities", "flair", "t1ce", "t2", "--dataset", "brats2020"]
    assert main([*map(str, taken), *card]) == 0


def run() -> int:
    """Print the table; return 1 where a command does wrong."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(work)
        chosen = sys.argv[1:]
        print(f"| command | {' | '.join(f'{free} kB free' for free in FREE)} |\n|{'---|' * (1 + len(FREE))}")
        for name in commands(work, work):
            if chosen and name.split()[0] not in chosen:
                continue
            cells = []
            for free in FREE:
                with disk(free) as full:
                    right, said = judge(commands(work, full)[name], full)
                failed += not right
                cells.append(said if right else f"**WRONG** {said}")
            print(f"| `{name}` | {' | '.join(cells)} |", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(run())

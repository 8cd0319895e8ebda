"""`raum doctor`: the environment of a run on this machine, and what is wrong with it."""

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

# programs of one name: ours is found by the module that it starts
OURS, OTHERS = "raum_lightning", {"lightning_sdk": "lightning-sdk"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder of the runs (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Print a line for each check; return 1 where one fails."""
    from raum_lightning.cli.log_filters import quieten

    quieten()
    wrong = 0
    for name, said, fine in _findings(args.root):
        wrong += not fine
        print(f"{'' if fine else '! '}{name:<10} {said}")
    return int(wrong > 0)


def _findings(root: Path) -> Iterator[tuple[str, str, bool]]:
    """Yield the name of each check, its finding, and whether it passed."""
    from raum_lightning.cli.run_plan import lacks_bf16
    from raum_lightning.loggers import wandb_mode
    from raum_lightning.training.provenance import PACKAGE, commit, hardware, versions

    known, machine, revision = versions(), hardware(), commit()
    yield "package", f"{known.pop('raum_lightning')} in {PACKAGE}{f', commit {revision}' if revision else ''}", True
    yield "versions", ", ".join(f"{name} {version}" for name, version in known.items()), True
    for program in ("raum", "lightning"):
        yield program, *program_of(program)
    yield "CPU", f"{machine['cpu']}, {machine['cores']} cores", True
    yield "GPU", ", ".join(machine["gpus"]) or "none that torch can use", True
    device = lacks_bf16("auto")
    yield "bf16", f"this {device} has none: runs take 32-true instead" if device else "in hardware", True
    mode, reason = wandb_mode()
    yield "W&B", f"{mode}{f' ({reason})' if reason else ''}", True
    above = next(folder for folder in (root.resolve(), *root.resolve().parents) if folder.exists())
    free = shutil.disk_usage(above).free / 1e9
    yield "disk", f"{free:.0f} GB free for {root}", free > 1


def program_of(name: str) -> tuple[str, bool]:
    """Return where a program on the path lies and whose it is, and whether it is ours."""
    found = shutil.which(name)
    if found is None:
        return f"is not on the path; activate its environment, or type python -m {OURS}", False
    try:
        text = Path(found).read_text(errors="replace")
    except OSError as error:
        return f"{found} cannot be read ({error.strerror})", False
    if OURS in text:
        return found, True
    owner = next((package for module, package in OTHERS.items() if module in text), "another package")
    return f"{found} is of {owner}, not of raum: type raum instead", False

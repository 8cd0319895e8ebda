"""W&B's run of this process: online or offline, how it ends, and where it can be seen."""

import os
import sys
from netrc import NetrcParseError, netrc
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.parse import urlsplit


def sending(folder: Path | str | None) -> str:
    """Return by what command the runs in a folder go to the server, those that were online in part included."""
    return f"`wandb sync --include-online {quote(str(folder))}/wandb/*run-*` sends it"


def finish_wandb(*, failed: bool = False) -> None:
    """End the process's W&B run if there is one, so that the next starts its own; W&B shows it as failed or finished.

    A run that was stopped to be resumed later counts as failed until it is.
    """
    if wandb := sys.modules.get("wandb"):
        try:
            run = getattr(wandb, "run", None)
            where = _where(run) if run is not None else ""
            wandb.finish(exit_code=int(failed))
            if where:
                print(where, flush=True)
        except OSError:  # SLURM ends W&B's own process together with ours, and it may be the first to go
            sys.unraisablehook = lambda failure: None  # wandb tries once more when Python exits


def _where(run: Any) -> str:
    """Return where a run can be seen, in one line; of an offline run all parts, those of other verbs too, are sent."""
    if run.disabled:
        return ""
    if not run.offline:
        return f"W&B: {run.url}"
    folder = Path(run.settings.sync_dir).parent
    folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    shown = quote(str(folder))  # as a shell takes it
    return f"W&B: `wandb sync {shown}/*-{quote(run.id)}` sends it, `wandb leet {shown}` shows it"


def wandb_mode(offline: bool | None = None) -> tuple[str, str]:
    """Return W&B's mode, and why where it is not online by itself."""
    if mode := os.environ.get("WANDB_MODE"):
        mode = {"dryrun": "offline", "run": "online"}.get(mode, mode)  # their former names
        return mode, f"W&B is {mode} by WANDB_MODE"
    if offline is None:
        return ("online", "") if _has_key() else ("offline", "W&B has no key")
    return ("offline", "W&B is offline as configured") if offline else ("online", "")


def _has_key() -> bool:
    """Return whether the environment or a netrc file holds a key, as `wandb login` leaves it; asks no server."""
    import wandb

    if "WANDB_API_KEY" in os.environ or "WANDB_IDENTITY_TOKEN_FILE" in os.environ:
        return True
    host = urlsplit(wandb.Settings().base_url).hostname or ""
    try:
        return netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (FileNotFoundError, NetrcParseError):
        return False

"""One process at a time trains in the folder of a run."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from raum_lightning.atomic import is_alive, not_written
from raum_lightning.errors import RunError
from raum_lightning.runs.folder import RunFolder


@contextmanager
def locked(run: RunFolder, option: str = "--run.id") -> Iterator[None]:
    """Hold the run's lock, which says host, process and SLURM job, within the block; `option` gives another folder.

    That of a process which no longer runs on this host is taken over, and so is that of an earlier start of the same
    SLURM job, which was requeued. Raises `RunError` for any other, and `OutputError` where the folder cannot be
    written.
    """
    mine = f"{socket.gethostname()} {os.getpid()} {_job()}"
    while True:
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            with run.lock.open("x") as file:
                file.write(mine)
            break
        except FileExistsError:
            _remove_stale(run, option)
        except OSError as failure:
            with suppress(OSError):  # which would hide the failure before it
                run.lock.unlink(missing_ok=True)
            raise not_written(run.lock, failure) from failure
    try:
        yield
    finally:
        run.lock.unlink(missing_ok=True)


def holder(run: RunFolder) -> int | None:
    """Return the process of this host that trains in `run` now; None where there is none."""
    try:
        host, process, _ = run.lock.read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    alive = host == socket.gethostname() and int(process) != os.getpid() and is_alive(int(process))
    return int(process) if alive else None


def _job() -> str:
    """Return the SLURM job and how often it was started again; - where there is none."""
    job = os.environ.get("SLURM_JOB_ID")
    return f"{job}:{os.environ.get('SLURM_RESTART_COUNT', 0)}" if job else "-"


def _remove_stale(run: RunFolder, option: str) -> None:
    try:
        host, process, job = run.lock.read_text().split()
    except FileNotFoundError:
        return
    except ValueError:  # its writer was killed between two steps, or the disk was full
        host, process, job = "an unknown host", "0", "-"
    here = host == socket.gethostname()
    dead = here and (int(process) == os.getpid() or not is_alive(int(process)))
    number, _, starts = job.partition(":")
    mine, _, now = _job().partition(":")
    requeued = job != "-" and number == mine and int(now) > int(starts or -1)
    if not dead and not requeued:
        raise RunError(
            f"{run.path}: process {process} on {host} is training in this folder; wait for it or give another {option} "
            f"(if that process no longer runs, remove {run.lock})"
        )
    run.lock.unlink(missing_ok=True)

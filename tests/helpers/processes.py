"""Processes that a test starts and that never outlive it: whatever happens, they are killed."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess


def exit_codes(*processes: BaseProcess, seconds: float = 240) -> list[int | None]:
    """Wait for processes, `seconds` for all of them, and return their exit codes: -9 for one that had not ended."""
    deadline = time.monotonic() + seconds
    try:
        for process in processes:
            process.join(max(0, deadline - time.monotonic()))
    finally:  # also where pytest's own time limit ends the test
        for process in processes:
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def output(process: subprocess.Popen[str], seconds: float = 240) -> str:
    """Return all that a process prints until it ends; it must lead a session, all of which is killed afterwards."""
    try:
        return process.communicate(timeout=seconds)[0]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

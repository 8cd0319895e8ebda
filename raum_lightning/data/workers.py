"""What a process that reads data does with signals and memory."""

import os
import signal
from threading import Thread

from raum_lightning.allocator import keep_memory


def start_worker(worker: int) -> None:
    """Keep freed memory, and leave signals to the main process, which saves and then ends its workers.

    SLURM, systemd and a terminal send a signal to all processes of a job at once; a worker that ended by it would take
    the main process down before that could save. SIGTERM still ends a worker where its parent sends it, as
    `multiprocessing` does at exit.
    """
    keep_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # on macOS and Windows nobody could tell who sent a signal
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)

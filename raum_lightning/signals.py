"""What commands and their worker processes do when they are asked to stop."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import parent_process
from threading import Thread, current_thread, main_thread
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM was received: what is open is closed as after Ctrl-C."""


def stopping() -> AbstractContextManager[None]:
    """Within the block Ctrl-C raises `KeyboardInterrupt` and SIGTERM `Terminated`; a second signal ends at once."""

    def first(signum: int, frame: FrameType | None) -> None:
        for one in ENDING:
            signal.signal(one, _at_once)
        raise (Terminated if signum == signal.SIGTERM else KeyboardInterrupt)

    return handled_by(first)


@contextmanager
def handled_by(
    handler: Callable[[int, FrameType | None], None], signals: Sequence[signal.Signals] = ENDING
) -> Iterator[None]:
    """Within the block these signals, Ctrl-C and SIGTERM where not given, call `handler`."""
    taken = signals if current_thread() is main_thread() else ()  # no other may take signals
    before = {signum: signal.signal(signum, handler) for signum in taken}
    try:
        yield
    finally:
        for signum, former in before.items():
            signal.signal(signum, former)


def leave_to_parent() -> None:
    """Let a worker process ignore the signals of the whole job, and end it with the process that started it.

    SLURM, systemd and a terminal send a signal to all processes of a job at once; a worker that ended by it would take
    the main process down before that could save. SIGTERM still ends a worker where its parent sends it, as
    `multiprocessing` does at exit.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # on macOS and Windows nobody could tell who sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_end_with_parent, daemon=True).start()
    end_after_parent()  # last, as threads take over what is blocked


def end_after_parent() -> None:
    """End this process once the one that started it has ended: that may be killed, and nobody else would."""
    Thread(target=_end_after_parent, daemon=True).start()


def _end_with_parent() -> None:
    # not getppid, which may be a server that starts processes for others
    parent = parent_process()
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != (parent.pid if parent else os.getppid()):
        pass
    os._exit(0)


def _end_after_parent() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _at_once(signum: int, frame: FrameType | None) -> None:
    print("stopped at once", file=sys.stderr, flush=True)
    os._exit(128 + signum)

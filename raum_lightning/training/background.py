"""Scoring beside the network: on the CPU, while the GPU is busy with the next case."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

# cases that wait; more would only hold their volumes in memory
WAITING = 2


class Background:
    """Runs one job after the other in a thread, which is there only between the first job and `finish`.

    NumPy, SciPy and torch let other threads run while they work, so that a job costs the caller hardly any time. What a
    job raises is raised by the next call.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._pending: deque[Future[None]] = deque()

    def run(self, job: Callable[[], None]) -> None:
        """Run the job after those that were given before; wait where several are behind."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "scores")
        self._pending.append(self._pool.submit(job))
        while len(self._pending) > WAITING:
            self._pending.popleft().result()

    def finish(self) -> None:
        """Wait for all jobs, and end the thread: processes that are forked later do not copy it."""
        pool, self._pool = self._pool, None
        try:
            while self._pending:
                self._pending.popleft().result()
        finally:
            self._pending.clear()
            if pool is not None:
                pool.shutdown(cancel_futures=True)

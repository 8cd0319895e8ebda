"""Progress of long work on the terminal, and tables."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

UNBOUNDED = 10_000  # characters


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, drawn from the first call of what it yields: `update(done, total)`.

    Where standard error is no terminal, one line at the end says how much was done.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn(description),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    progress = Progress(*columns, console=console)
    with ExitStack() as shown:
        task = None

        def update(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                shown.enter_context(progress)
                task = progress.add_task(description)
            progress.update(task, completed=done, total=total)

        yield update


def print_table(table: Table) -> Console:
    """Print a table with all its digits, wider than the terminal where it has to be; return what printed it."""
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, console.measure(table, options=console.options.update(width=UNBOUNDED)).maximum)
    console.print(table)
    return console

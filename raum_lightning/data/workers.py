"""What a process that reads data does with signals and memory."""

from raum_lightning.machine import keep_memory
from raum_lightning.signals import leave_to_parent


def start_worker(worker: int) -> None:
    """Keep freed memory, and leave signals to the main process, which saves and then ends its workers."""
    keep_memory()
    leave_to_parent()

"""What depends on the step of a run: the learning rate, and what is not done at every one."""

import math


def warmup_cosine(step: int, *, warmup_steps: int, total_steps: int, final: float = 0.0) -> float:
    """Factor on the learning rate at `step`, from 0: linear up to 1 over `warmup_steps`, then half a cosine to `final`.

    The first step is already above 0, the last one (`total_steps` - 1) is close above `final`.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    share = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share))


def is_due(step: int, every: int) -> bool:
    """Whether what is done at every so many steps is done at this one; with 0 it never is."""
    return every > 0 and step % every == 0

"""Pictures for people: a case on one page, and the curves of a run."""

from raum_lightning.figures.scan import Scan
from raum_lightning.figures.sheet import check_ending, dots, draw, save

__all__ = ["Scan", "check_ending", "dots", "draw", "save"]

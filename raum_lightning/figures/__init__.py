"""Pictures for people: a case on one page, and the curves of a run."""

from raum_lightning.figures.case import FigureError, Scan, draw, save

__all__ = ["FigureError", "Scan", "draw", "save"]

"""Data sets: their file names, label values, classes and regions, each described by one YAML file.

The files beside this module are the data sets known by name. Nothing else in the package holds a label value.
"""

from raum_lightning.datasets.dataset import BACKGROUND, IGNORED, DataSet
from raum_lightning.datasets.description import parse
from raum_lightning.datasets.known import ALIASES, names, presets
from raum_lightning.datasets.loading import load

__all__ = ["ALIASES", "BACKGROUND", "IGNORED", "DataSet", "load", "names", "parse", "presets"]

"""Cases on disk: find them, read and check them, split them."""

from raum_lightning.cases.case import Case
from raum_lightning.cases.discovery import find_case, find_cases

__all__ = ["Case", "find_case", "find_cases"]

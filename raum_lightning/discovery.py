"""The former place of `raum_lightning.cases.discovery`; it goes with the next release."""

from raum_lightning.cases.discovery import find_case, find_cases

__all__ = ["find_case", "find_cases"]

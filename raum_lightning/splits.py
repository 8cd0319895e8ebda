"""The former place of `raum_lightning.cases.splits`; it goes with the next release."""

from raum_lightning.cases.splits import Split, make_split, read_split

__all__ = ["Split", "make_split", "read_split"]

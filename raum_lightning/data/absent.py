"""What a network gets in place of a modality that is absent: 0 everywhere, or a copy of another modality.

The same for a patch in training, a prepared volume, and a case that is segmented.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from raum_lightning.data.option_checks import check_names
from raum_lightning.errors import ConfigError

# for each channel that which takes its place where it is absent; None for 0
StandIns: TypeAlias = Sequence[int | None]


def stand_ins(fills: Mapping[str, str], modalities: Sequence[str]) -> StandIns:
    """Return data.fill_absent by channel; raise `ConfigError` for what is not in `modalities`, or its own stand-in."""
    if fills:
        check_names("fill_absent", list(fills), modalities)
    for name, other in fills.items():
        if other not in modalities or other == name:
            rest = ", ".join(one for one in modalities if one != name)
            raise ConfigError(f"data.fill_absent fills {name} with {other}; it must be one of {rest}")
    return [list(modalities).index(fills[name]) if name in fills else None for name in modalities]


def fill_absent(image: Any, present: Sequence[bool], stand_ins: StandIns) -> None:
    """Write into the absent channels of an array or tensor C X Y Z what takes their place.

    That is 0 too where the stand-in is absent as well.
    """
    for channel, (here, other) in enumerate(zip(present, stand_ins, strict=True)):
        if not here:
            image[channel] = 0 if other is None or not present[other] else image[other]

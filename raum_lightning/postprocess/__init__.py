"""Masks without what is not believed: holes, specks, enhancing tumour of a few voxels, cores without edema.

Everything works on class indices X Y Z in three dimensions; components have 26 neighbours, holes are background that
the 6 neighbours do not connect to the outside, volumes are in mm³. The steps, in this order, the outermost region
first:

1. `holes`: background, or a larger region's voxels, that a region encloses become part of it;
2. `min_mm3`: components of a region smaller than this are dropped;
3. `min_share`: so are those smaller than this share of the region; neither drops the largest of a region in `keep_one`;
4. `largest`: only so many components are kept, the largest;
5. `min_enhancing_mm3`: where the innermost region is smaller than this as a whole, it becomes `enhancing_to`;
6. `core_needs_edema`: components of the outermost region that hold no voxel of its own class are dropped.

Before them comes `threshold`, from which probability on a region is believed (see `labels.from_probabilities`): whoever
has the probabilities makes the mask by it, which `clean` then takes.

Outermost and innermost are the ends of `nested`, such as WT and ET. A voxel that a region loses goes to the next larger
region, and to background where there is none. The steps are repeated until nothing changes, so that a clean mask stays
as it is; only `holes` adds tumour.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy import ndimage

from raum_lightning.errors import ConfigError
from raum_lightning.geometry import Box, bounding_box
from raum_lightning.labels import BACKGROUND, REGIONS, Regions, in_classes
from raum_lightning.yaml_files import read_yaml

Labels = NDArray[np.uint8]

Mask = NDArray[np.bool_]
# of a mask: the box around it, and in that box the numbers of its components, whose sizes in voxels are by number
Numbered = tuple[Box, NDArray[np.int32], NDArray[np.float64]]

_TWENTY_SIX = np.ones((3, 3, 3), bool)
# the fields that list regions
_LISTS = ("holes", "keep_one")
COMMENTS = {
    "threshold": "the probability from which a region is believed, instead of 0.5",
    "holes": "regions whose holes are filled",
    "min_mm3": "components of a region smaller than this are dropped, mm3",
    "min_share": "components smaller than this share of the region are dropped",
    "keep_one": "regions whose largest component is kept, however small",
    "largest": "only so many components are kept, the largest",
    "min_enhancing_mm3": "an enhancing tumour smaller than this as a whole is not believed, mm3; 0 keeps all",
    "enhancing_to": "what it becomes then: core, or edema",
    "core_needs_edema": "tumour without any edema is dropped",
}


@dataclass(frozen=True)
class Postprocess:
    """What is done with a mask; the default does nothing.

    Args:
        threshold: For each region, the probability from which it is believed, 0.01 to 0.99; 0.5 changes nothing.
        holes: Regions whose holes are filled.
        min_mm3: For each region, the least volume of a component in mm³.
        min_share: For each region, the least share of a component in the region, in [0, 1].
        keep_one: Regions whose largest component is not dropped for its size.
        largest: For each region, how many components are kept.
        min_enhancing_mm3: The least volume of the innermost region as a whole, in mm³.
        enhancing_to: `core`, the next larger region, or `edema`, the outermost.
        core_needs_edema: Whether components of the outermost region without a class of its own are dropped.

    Raises:
        ConfigError: A value makes no sense; the message names its key.
    """

    threshold: Mapping[str, float] = field(default_factory=dict)
    holes: tuple[str, ...] = ()
    min_mm3: Mapping[str, float] = field(default_factory=dict)
    min_share: Mapping[str, float] = field(default_factory=dict)
    keep_one: tuple[str, ...] = ()
    largest: Mapping[str, int] = field(default_factory=dict)
    min_enhancing_mm3: float = 0
    enhancing_to: str = "core"
    core_needs_edema: bool = False

    def __post_init__(self) -> None:
        limits = {"threshold": (0.01, 0.99), "min_mm3": (0, np.inf), "min_share": (0, 1), "largest": (1, np.inf)}
        for key, (lowest, highest) in limits.items():
            given = getattr(self, key)
            if not isinstance(given, Mapping):
                raise ConfigError(f"postprocess.{key}={given!r} does not name regions, as in {{WT: 100}}")
            for region, value in given.items():
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not lowest <= value <= highest:
                    raise ConfigError(f"postprocess.{key}.{region}={value!r} is not from {lowest} to {highest}")
        for region, count in self.largest.items():
            if not isinstance(count, int):
                raise ConfigError(f"postprocess.largest.{region}={count!r} is no whole number")
        if self.enhancing_to not in ("core", "edema"):
            raise ConfigError(f"postprocess.enhancing_to={self.enhancing_to!r} is neither core nor edema")
        size = self.min_enhancing_mm3
        if isinstance(size, bool) or not isinstance(size, (int, float)) or not 0 <= size < np.inf:
            raise ConfigError(f"postprocess.min_enhancing_mm3={size!r} must be a number of at least 0")
        if not isinstance(self.core_needs_edema, bool):
            raise ConfigError(f"postprocess.core_needs_edema={self.core_needs_edema!r} is neither true nor false")

    @classmethod
    def of(cls, values: Mapping[str, Any], source: str = "postprocess") -> Self:
        """Return it from plain values; raise `ConfigError` for keys that there are not."""
        known = {one.name for one in fields(cls)}
        if unknown := set(values) - known:
            raise ConfigError(f"{source}: {unknown.pop()!r} is no step; the steps are {', '.join(sorted(known))}")
        tidy: dict[str, Any] = {
            key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()
        }
        for key in [key for key in _LISTS if key in tidy]:
            names = tidy[key] or ()
            if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
                raise ConfigError(f"{source}: {key}={names!r} is no list of regions, as in [WT]")
            tidy[key] = tuple(names)
        return cls(**tidy)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return it from a YAML file of `raum postprocess fit`; raise `ConfigError` for other files."""
        try:
            content, _ = read_yaml(path)
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file; `raum postprocess fit` writes one") from None
        if content is not None and not isinstance(content, dict):
            raise ConfigError(f"{path}: does not say what to do with masks; `raum postprocess fit` writes such a file")
        return cls.of(content or {}, str(path))

    def check(self, regions: Collection[str]) -> None:
        """Raise `ConfigError` for regions that are none of these."""
        named = {*self.threshold, *self.holes, *self.min_mm3, *self.min_share, *self.keep_one, *self.largest}
        if unknown := named - set(regions):
            raise ConfigError(f"postprocess names {unknown.pop()!r}, which is none of the regions {', '.join(regions)}")

    @property
    def plain(self) -> dict[str, Any]:
        """The steps that do something, in plain values, from which `of` makes the same."""
        nothing = asdict(Postprocess())
        found = {key: value for key, value in asdict(self).items() if value != nothing[key]}
        return found | {key: list(found[key]) for key in _LISTS if key in found}

    def to_yaml(self, heading: str = "") -> str:
        """Return the text of a file, each step with a comment."""
        lines = [f"# {line}" if line else "#" for line in heading.splitlines()]
        for key, value in self.plain.items():
            text = yaml.safe_dump([value], default_flow_style=True, width=1000).strip()[1:-1]
            lines.append(f"{key}: {text}  # {COMMENTS[key]}")
        return "\n".join(lines or ["{}"]) + "\n"

    def __str__(self) -> str:
        return ", ".join(f"{key} {_said(value)}" for key, value in self.plain.items()) or "nothing"


def _said(value: Any) -> str:
    """Return the value of a step as a reader wants it: `WT 20000, TC 250` in parentheses, not Python's dictionary."""
    if isinstance(value, dict):
        return f"({', '.join(f'{name} {one}' for name, one in value.items())})"
    return f"({', '.join(value)})" if isinstance(value, list) else str(value)


def components(mask: Mask) -> Numbered:
    """Return the components of a mask X Y Z; 0 is what lies outside of it, and counts no voxels."""
    box = bounding_box(mask)
    numbers, count = ndimage.label(mask[box], _TWENTY_SIX)
    sizes = np.bincount(numbers.ravel(), minlength=count + 1).astype(float)
    sizes[0] = 0
    return box, numbers, sizes


def _holes(mask: Mask) -> Mask:
    """Return what a mask X Y Z encloses, by faces.

    As `scipy.ndimage.binary_fill_holes` finds it, which grows the outside by a voxel at a time and is slower.
    """
    holes = np.zeros_like(mask)
    box = bounding_box(mask)
    numbers, _ = ndimage.label(np.pad(~mask[box], 1, constant_values=True))
    inner = numbers[1:-1, 1:-1, 1:-1]
    holes[box] = (inner > 0) & (inner != numbers[0, 0, 0])
    return holes


def clean(
    labels: Labels,
    steps: Postprocess,
    spacing: tuple[float, float, float],
    regions: Regions = REGIONS,
    components: Callable[[Mask], Numbered] = components,
) -> Labels:
    """Return class indices X Y Z after the steps; voxels are of `spacing` mm.

    Thresholds have been applied when there is a mask. Who cleans one mask in many ways may give `components` that
    remembers. Raises `ConfigError` for regions that the data set does not have.
    """
    steps.check(regions)
    if not steps.plain or not labels.any():
        return labels
    voxel = float(np.prod(spacing))
    before, after = labels, _once(labels, steps, voxel, regions, components)
    while not np.array_equal(before, after):
        before, after = after, _once(after, steps, voxel, regions, components)
    return after


def _once(
    labels: Labels, steps: Postprocess, voxel: float, regions: Regions, components: Callable[[Mask], Numbered]
) -> Labels:
    labels = labels.copy()
    chain = nested(regions)
    outer, inner = chain[0], chain[-1]
    outermost_first = sorted(regions, key=lambda name: -len(regions[name]))
    for name in outermost_first:
        if name in steps.holes:
            mask = in_classes(labels, regions[name])
            holes = _holes(mask)
            # a cavity that no region holds is no hole
            fillable = (labels == BACKGROUND) | in_classes(labels, regions[outer])
            labels[holes & fillable] = _own(name, regions)
    for name in outermost_first:
        if name in steps.min_mm3 or name in steps.min_share or name in steps.largest:
            box, numbers, sizes = components(in_classes(labels, regions[name]))
            labels[box][~_kept(sizes, voxel, steps, name)[numbers]] = _outside(name, regions)
    enhancing = in_classes(labels, regions[inner])
    if 0 < np.count_nonzero(enhancing) * voxel < steps.min_enhancing_mm3:
        labels[enhancing] = _outside(inner, regions) if steps.enhancing_to == "core" else _own(outer, regions)
    if steps.core_needs_edema:
        box, numbers, sizes = components(in_classes(labels, regions[outer]))
        has = np.zeros(len(sizes), bool)
        has[numbers[labels[box] == _own(outer, regions)]] = True
        labels[box][(numbers > 0) & ~has[numbers]] = BACKGROUND
    return labels


def _kept(sizes: NDArray[np.float64], voxel: float, steps: Postprocess, name: str) -> Mask:
    """Return which components of a region are kept, by number; 0 is."""
    keep: Mask = sizes * voxel >= steps.min_mm3.get(name, 0)
    if name in steps.keep_one:
        keep[sizes.argmax()] = True
    # the share of what is left: a component that is kept is never dropped for what goes after it
    keep &= sizes >= steps.min_share.get(name, 0) * sizes[keep].sum()
    if name in steps.keep_one:
        keep[sizes.argmax()] = True
    if name in steps.largest:
        order = np.argsort(-np.where(keep, sizes, 0), kind="stable")
        keep[order[steps.largest[name] :]] = False
    keep[0] = True
    return keep


def nested(regions: Regions) -> tuple[str, ...]:
    """Return the largest region, the largest within it, and so on: WT, TC, ET, whatever lies beside them."""
    found: list[str] = []
    within = list(regions)
    while within:
        found.append(max(within, key=lambda name: len(regions[name])))
        within = [name for name in regions if set(regions[name]) < set(regions[found[-1]])]
    return tuple(found)


def _own(name: str, regions: Regions) -> int:
    """Return the first class of a region that the largest region within it has not."""
    members = regions[name]
    parts = [other for other in regions.values() if set(other) < set(members)]
    largest = max(parts, key=len, default=())
    return next(index for index in members if index not in largest)


def _outside(name: str, regions: Regions) -> int:
    """Return the class of what surrounds a region: of the next larger one with a class of its own, or background."""
    larger = [other for other, members in regions.items() if set(regions[name]) < set(members)]
    classes = [_own(other, regions) for other in sorted(larger, key=lambda other: len(regions[other]))]
    return next((index for index in classes if index not in regions[name]), BACKGROUND)

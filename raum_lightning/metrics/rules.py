"""The rules by which the organisers of BraTS score a case, year by year, as one table.

|                         | brats2020           | brats2023          | brats2024                 | brats2026           |
|-------------------------|---------------------|--------------------|---------------------------|---------------------|
| years                   | to 2022             | 2023               | 2024                      | 2025 on             |
| a lesion                | as 2023             | joined by reach    | by reach and by tissue    | connected component |
| reach, in dilations     | as 2023             | 3; men, met 1      | 3; NETC and RC 5          | none                |
| lesions left out        | as 2023             | to 50 mm³; met 2   | to 20 mm³; ET 10          | none                |
| predicted components    | as they are         | as they are        | joined; small dropped     | as they are         |
| matching                | touches the reach   | touches the reach  | touches the reach         | one to one by Dice  |
| mean over               | lesions, false ones | lesions, false ones| lesions, false ones       | matched lesions     |
| missed or false lesion  | Dice 0, 374 mm      | Dice 0, 374 mm     | Dice 0, 337 mm            | in F1 only          |
| region in one mask only | Dice 0, 373.13 mm   | Dice 0, 374 mm     | Dice 0, 337 mm            | Dice 0, 373 mm      |
| region in neither mask  | Dice 1, 0 mm        | Dice 1, 0 mm       | Dice 1, 0 mm              | no score            |
| HD95 between            | surface elements    | surface elements   | surface elements          | border voxels       |
| case without prediction | left out            | left out           | left out                  | 0, 373 mm           |

BraTS had no lesion-wise scores before 2023: those of 2023 are computed. Its script has parameters for each challenge:
brats2023 stands for those of glioma, brats2023-men of meningioma (reach 1) and brats2023-met of metastases, which lie
close together and may be tiny (reach 1, to 2 mm³). Sources: arXiv:2107.02314 (2020 to 2022);
github.com/rachitsaluja/BraTS-2023-Metrics, `eval.py`; github.com/rachitsaluja/BraTS-2024-Metrics, `metrics_GLI.py`;
`brats-evaluation` 0.0.10 on PyPI, with the settings `gli` and `mets`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from raum_lightning.errors import ConfigError
from raum_lightning.labels import CLASSES, ED, ET, NCR, RC

Members = tuple[int, ...]


@dataclass(frozen=True)
class Rules:
    """One column of the table; regions are told apart by the class indices that they are made of, see `of`.

    Args:
        name: What users choose by.
        years: Of the challenges that scored in this way.
        source: The organisers' code or text.
        one_to_one: Components are matched one to one by the largest Dice, not by what touches a lesion's reach.
        reach: Dilations by the 18 neighbours of a voxel after which lesions are one, and within which they are found.
        reach_of: The reach of single regions that have one of their own.
        small_mm3: Lesions of at most this volume are left out.
        small_mm3_of: The same for single regions.
        joins_predictions: Predicted components are joined as lesions are, and those of at most `small_mm3` voxels
            dropped, before anything is scored.
        joins: For each region the others whose lesions join those of it that they touch, in this order.
        border_voxels: HD95 is taken between border voxels, not between surface elements.
        missed_mm: Distance where exactly one of the masks has a region.
        missed_lesion_mm: Distance of a lesion that is missed or false.
        absent: Overlap of a region that neither mask has.
        absent_mm: Distance of a region that neither mask has.
        counts_missing: A case without prediction scores the worst instead of being left out.
    """

    name: str
    years: str
    source: str
    one_to_one: bool = False
    reach: int = 3
    reach_of: Mapping[Members, int] = field(default_factory=dict)
    small_mm3: float = 50
    small_mm3_of: Mapping[Members, float] = field(default_factory=dict)
    joins_predictions: bool = False
    joins: Mapping[Members, tuple[Members, ...]] = field(default_factory=dict)
    border_voxels: bool = False
    missed_mm: float = 374
    missed_lesion_mm: float = 374
    absent: float = 1
    absent_mm: float = 0
    counts_missing: bool = False

    def reach_in(self, region: Members) -> int:
        """The dilations of a region's lesions."""
        return self.reach_of.get(region, self.reach)

    def small_in(self, region: Members) -> float:
        """The volume in mm³ up to which a region's lesions are left out."""
        return self.small_mm3_of.get(region, self.small_mm3)

    def of(self, classes: Sequence[str]) -> "Rules":
        """Return these rules, which stand here by the indices of `labels`, by those of a data set with these classes.

        Classes, background first, are told by name; what is said of a class that it has not is left out.
        """
        if tuple(classes) == CLASSES[: len(classes)]:
            return self
        index = {CLASSES.index(name): place for place, name in enumerate(classes) if name in CLASSES}

        def known(members: Iterable[Members]) -> dict[Members, Members]:
            return {one: tuple(map(index.__getitem__, one)) for one in members if index.keys() >= set(one)}

        return replace(
            self,
            reach_of={new: self.reach_of[old] for old, new in known(self.reach_of).items()},
            small_mm3_of={new: self.small_mm3_of[old] for old, new in known(self.small_mm3_of).items()},
            joins={new: tuple(known(self.joins[old]).values()) for old, new in known(self.joins).items()},
        )

    @property
    def absent_text(self) -> str:
        """What a region has that neither mask holds."""
        return "no score" if math.isnan(self.absent) else f"{self.absent:g}"

    @property
    def absent_mm_text(self) -> str:
        """The same in mm."""
        return "no score" if math.isnan(self.absent_mm) else f"{self.absent_mm:g}"

    @property
    def border_text(self) -> str:
        """What HD95 is taken between."""
        return "border voxels" if self.border_voxels else "surface elements"

    @property
    def lesions_text(self) -> str:
        """What lesion-wise scores are the means of."""
        return "matched lesions" if self.one_to_one else "lesions and false positives"

    def __str__(self) -> str:
        return f"{self.name}: BraTS {self.years}, {self.source}"


_NETC, _SNFH, _ET, _RC = (NCR,), (ED,), (ET,), (RC,)
_SCRIPT_OF_2023 = "github.com/rachitsaluja/BraTS-2023-Metrics"

RULES: dict[str, Rules] = {
    rules.name: rules
    for rules in (
        # the diagonal of the grid of 240 x 240 x 155 voxels
        Rules("brats2020", "to 2022", "arXiv:2107.02314", missed_mm=math.hypot(240, 240, 155)),
        # `get_LesionWiseResults` has the parameters by challenge: these for BraTS-GLI, BraTS-SSA and BraTS-PED,
        Rules("brats2023", "2023", _SCRIPT_OF_2023),
        # for BraTS-MEN
        Rules("brats2023-men", "2023 for meningioma", _SCRIPT_OF_2023, reach=1),
        # and for BraTS-MET
        Rules("brats2023-met", "2023 for metastases", _SCRIPT_OF_2023, reach=1, small_mm3=2),
        Rules(
            "brats2024",
            "2024",
            "github.com/rachitsaluja/BraTS-2024-Metrics",
            # the script means SNFH too, but misspells it
            reach_of={_NETC: 5, _RC: 5},
            small_mm3=20,
            small_mm3_of={_ET: 10},
            joins_predictions=True,
            joins={_NETC: (_ET, _RC), _ET: (_NETC, _RC), _RC: (_ET, _NETC), _SNFH: (_ET, _RC, _NETC)},
            missed_mm=337,
            missed_lesion_mm=337,
        ),
        Rules(
            "brats2026",
            "2025 on",
            "brats-evaluation 0.0.10",
            one_to_one=True,
            reach=0,
            small_mm3=0,
            border_voxels=True,
            missed_mm=373,
            missed_lesion_mm=373,
            absent=math.nan,
            absent_mm=math.nan,
            counts_missing=True,
        ),
    )
}
DEFAULT = RULES["brats2020"]


def find_rules(name: str) -> Rules:
    """Return the rules of this name, or "default"; raise `ConfigError` naming those that exist."""
    if name == "default":
        return DEFAULT
    if name not in RULES:
        raise ConfigError(f"rules {name!r} do not exist; choose from {', '.join(RULES)}")
    return RULES[name]

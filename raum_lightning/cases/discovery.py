"""Finding cases: the file names of BraTS 2020 to 2024, and dataset.json of MSD Task01."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from raum_lightning.cases.case import Case
from raum_lightning.cases.nifti import stem
from raum_lightning.errors import CaseError
from raum_lightning.labels import BACKGROUND, ED, EDITIONS, ET, NCR, Edition

# how dataset.json of MSD Task01 spells the modalities, and words by which it names the classes; the longer word of two
# that match decides ("non-enhancing" before "enhancing")
_MSD_MODALITIES = {"flair": "flair", "t1w": "t1", "t1": "t1", "t1gd": "t1ce", "t1ce": "t1ce", "t2w": "t2", "t2": "t2"}
_MSD_CLASSES = {"background": BACKGROUND, "edema": ED, "non-enhancing": NCR, "necro": NCR, "enhancing": ET}
# ids that say which edition they are of, whatever their files are called
_IDS = {r"brats(17|18|19|20)_": "brats2020", r"brats2021_": "brats2021", r"brats-[a-z]+-\d+": "brats2023"}


def edition_of(name: str) -> Edition | None:
    """The edition that an id, or the name of a file that begins with one, belongs to; None where it does not say."""
    named = (edition for pattern, edition in _IDS.items() if re.match(pattern, name, re.IGNORECASE))
    return EDITIONS[edition] if (edition := next(named, None)) else None


def find_cases(root: Path | str, edition: str = "auto") -> list[Case]:
    """All cases below `root`, sorted by id.

    A `dataset.json` makes it MSD Task01; otherwise files are recognised by the ends of their names, in any folders.
    `edition` "auto" takes what the names say; BraTS 2024 shares its names with 2023 and must be declared.
    Raises `CaseError` when there is nothing to find or two folders hold the same case.
    """
    root = Path(root).expanduser()
    if edition != "auto" and edition not in EDITIONS:
        raise CaseError(f"edition {edition!r} is unknown; it is one of auto, {', '.join(EDITIONS)}")
    if not root.is_dir():
        raise CaseError(f"{root}: no such folder; expected one that holds cases")
    if edition == "msd" or (edition == "auto" and (root / "dataset.json").is_file()):
        cases = _find_msd(root)
    else:
        cases = list(_find_brats(root, edition))
    if not cases:
        raise CaseError(f"{root}: no cases found; expected files such as <case>/<case>_flair.nii.gz or a dataset.json")
    seen: dict[str, Case] = {}
    for case in cases:
        if case.id in seen:
            raise CaseError(f"case {case.id} is in both {seen[case.id].folder} and {case.folder}; remove one")
        seen[case.id] = case
    return [seen[name] for name in sorted(seen)]


def find_case(folder: Path | str, edition: str = "auto") -> Case:
    """The one case in `folder`; raises `CaseError` when there are several."""
    cases = find_cases(folder, edition)
    if len(cases) > 1:
        raise CaseError(f"{folder}: holds {len(cases)} cases ({cases[0].id}, {cases[1].id}, ...); name one of them")
    return cases[0]


def _find_brats(root: Path, edition: str) -> Iterator[Case]:
    namings = [EDITIONS[edition]] if edition != "auto" else [EDITIONS["brats2020"], EDITIONS["brats2023"]]
    roles = {
        f"{naming.separator}{suffix}": (role, naming)
        for naming in namings
        for role, suffix in [*naming.suffixes.items(), ("seg", "seg")]
    }
    found: dict[tuple[Path, str], dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    editions: dict[tuple[Path, str], Edition] = {}
    masks: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted(files_below(root)):
        name = stem(path)
        if name is None:
            continue
        ending = next((ending for ending in roles if name.lower().endswith(ending)), None)
        if ending is None:
            masks[path.parent].append(path)
            continue
        role, naming = roles[ending]
        key = (path.parent, name[: -len(ending)])
        found[key][role].append(path)
        editions[key] = naming
    for (folder, name), files in found.items():
        if set(files) == {"seg"}:
            continue  # a folder of masks, such as predictions, is no case
        if "seg" not in files:
            # BraTS 2020's case 355 names its mask W39_1998.09.19_Segm.nii
            files["seg"] = [path for path in masks[folder] if (stem(path) or "").lower().endswith("segm")][:1]
        naming = editions[folder, name]
        if edition == "auto":
            naming = edition_of(name) or naming
        doubles = tuple(
            f"two files for {role}: {', '.join(map(str, paths))}" for role, paths in files.items() if paths[1:]
        )
        label = next(iter(files.pop("seg")), None)
        yield Case(
            name, naming, {role: files[role][0] for role in naming.suffixes if role in files}, label, {}, doubles
        )


def files_below(root: Path) -> Iterator[Path]:
    """All files below `root`; folders are often links to where a cluster keeps the data, at times in a circle.

    Raises `CaseError` for a folder that cannot be read.
    """
    seen: set[str] = set()
    for folder, below, names in os.walk(root, followlinks=True, onerror=_refuse):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        yield from (Path(folder) / name for name in names)


def _refuse(error: OSError) -> None:
    raise CaseError(f"{error.filename}: cannot be searched for cases ({error.strerror})")


def _find_msd(root: Path) -> list[Case]:
    path = root / "dataset.json"
    try:
        content = json.loads(path.read_text())
        names: Mapping[str, str] = content.get("modality") or content["channel_names"]
        channels = {_MSD_MODALITIES[name.lower()]: int(index) for index, name in names.items()}
        edition = replace(EDITIONS["msd"], classes=_msd_classes(content["labels"]))
        entries = [(item["image"], item["label"]) for item in content.get("training", ())]
        entries += [(item["image"] if isinstance(item, dict) else item, None) for item in content.get("test", ())]
    except FileNotFoundError:
        raise CaseError(f"{path}: no such file; edition msd needs it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CaseError(f"{path}: is not valid JSON ({error})") from None
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise CaseError(f"{path}: does not describe MSD Task01 (unexpected or missing {error})") from None
    return [
        Case(
            stem(root / image) or image,
            edition,
            dict.fromkeys(channels, root / image),
            label and root / label,
            channels,
        )
        for image, label in entries
    ]


def _msd_classes(table: Mapping[str, str]) -> dict[int, int]:
    """Label value to class, from dataset.json's `labels`: {"1": "edema", ...} or turned round, as nnU-Net."""
    named = {(int(k), v) if k.isdigit() else (int(v), k) for k, v in table.items()}
    words = sorted(_MSD_CLASSES, key=len, reverse=True)
    return {value: _MSD_CLASSES[next(word for word in words if word in name.lower())] for value, name in named}

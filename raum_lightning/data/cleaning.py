"""Prepared folders that no case needs any more, since its files, its modalities or the layout changed."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from raum_lightning.cases.case import Case
from raum_lightning.data.store import prepared_folder
from raum_lightning.errors import CaseError


def unneeded(folder: Path, cases: Sequence[Case]) -> list[Path]:
    """Return the prepared folders in `folder` that none of `cases` needs, with any modalities, with or without mask.

    Only folders that `prepare` has written are listed, by their name and the case.json in them.
    """
    by_id: Mapping[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_id[case.id].append(case)
    found = []
    for path in sorted(folder.glob("*/")):
        name = re.fullmatch(r"(.+)-[0-9a-f]{12}", path.name)
        if name and (path / "case.json").is_file() and not _is_needed(path, by_id.get(name[1], ())):
            found.append(path)
    return found


def megabytes(folders: Sequence[Path]) -> float:
    """Return the size of all files in `folders`, in MB of 10^6 bytes."""
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()) / 1e6


def _is_needed(path: Path, cases: Sequence[Case]) -> bool:
    try:
        modalities = json.loads((path / "case.json").read_text())["modalities"]
    except (OSError, ValueError, LookupError, TypeError):
        return False  # damaged: it would be prepared again
    for case in cases:
        for variant in (case, replace(case, label=None)):
            try:
                if prepared_folder(variant, path.parent, modalities) == path:
                    return True
            except CaseError:  # which lacks a modality now
                continue
    return False

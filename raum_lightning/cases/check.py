"""Check cases before a training: every file is read once, measured, and judged by the rules in `rules`."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from raum_lightning.atomic import write_text
from raum_lightning.cases.case import Case
from raum_lightning.cases.measure import Facts, measure
from raum_lightning.cases.nifti import read_header
from raum_lightning.cases.rules import RULES, SET_RULES, Finding, Subject
from raum_lightning.errors import CaseError

# goes up when what is measured changes
VERSION = 1
CACHE = "checked.json"
# memory that all threads together may take, and what a voxel takes of it while a case is measured
MEMORY, BYTES_PER_VOXEL = 700e6, 7


def check_cases(
    cases: Sequence[Case],
    modalities: Sequence[str],
    *,
    masked: bool | None = None,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Return what is wrong with cases, in the order of the cases; what concerns all of them last.

    Args:
        cases: As `find_cases` gives them.
        modalities: What every case must have; of others that it has, all files are judged too.
        masked: Whether every case must have a mask; by default where any has one. Cases that a dataset.json lists need
            none.
        cache: Folder in which what was measured is kept, so that files that did not change are not read again.
        progress: Is told (done, of).
    """
    masked = any(case.label for case in cases) if masked is None else masked
    facts = _measure_all(cases, cache, progress)
    subjects = [
        Subject(case, fact, modalities, masked and not case.channels) for case, fact in zip(cases, facts, strict=True)
    ]
    found = [
        Finding(rule.severity, rule.name, subject.case.id, file, message, advice)
        for subject in subjects
        for rule in RULES
        for file, message, advice in rule.judge(subject)
    ]
    found += [
        Finding(rule.severity, rule.name, case, file, message, advice)
        for rule in SET_RULES
        for case, file, message, advice in rule.judge(subjects)
    ]
    order = {case.id: position for position, case in enumerate(cases)}
    return sorted(found, key=lambda finding: (order.get(finding.case, len(order)), finding.severity))


def _measure_all(cases: Sequence[Case], cache: Path | None, progress: Callable[[int, int], None] | None) -> list[Facts]:
    known = _read_cache(cache) if cache else {}
    keys = [_key(case) for case in cases]
    facts: list[Facts] = []
    with ThreadPoolExecutor(_workers(cases)) as pool:
        jobs = zip(cases, keys, strict=True)
        for done, fact in enumerate(pool.map(lambda job: known.get(job[1]) or measure(job[0]), jobs), 1):
            facts.append(fact)
            if progress:
                progress(done, len(cases))
    if cache:
        kept = {key: fact.plain() for key, fact in zip(keys, facts, strict=True)}
        write_text(cache / CACHE, json.dumps(kept))
    return facts


def _read_cache(folder: Path) -> Mapping[str, Facts]:
    try:
        content: dict[str, Any] = json.loads((folder / CACHE).read_text())
        return {key: Facts.of_plain(facts) for key, facts in content.items()}
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
    ):  # not there, or of another version: measured again
        return {}


def _key(case: Case) -> str:
    """Return what changes when a file of the case does: paths, sizes, times, and what the values of its mask mean."""
    files = {str(path): _stat(path) for path in (*case.images.values(), case.label) if path}
    values = (case.edition.name, sorted(case.edition.indices.items()))
    key = json.dumps([VERSION, sorted(case.images.items()), sorted(case.channels.items()), files, values], default=str)
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def _stat(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return status.st_size, status.st_mtime_ns


def _workers(cases: Sequence[Case]) -> int:
    """Return how many cases to measure at a time, so that the largest fit into `MEMORY`."""
    voxels = [0]
    for case in cases:
        for path in [*case.images.values()][:1]:
            try:
                voxels.append(read_header(path).voxels)
            except CaseError:
                continue
    return max(1, min(8, os.cpu_count() or 1, int(MEMORY / (max(voxels) * BYTES_PER_VOXEL + 1))))

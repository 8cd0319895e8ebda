"""Check cases before a training: every file is read once, measured, and judged by the rules in `rules`."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from raum_lightning.atomic import write_text
from raum_lightning.cases.case import Case
from raum_lightning.cases.measure import Facts, measure
from raum_lightning.cases.nifti import read_header
from raum_lightning.cases.rules import RULES, SET_RULES, Finding, Subject
from raum_lightning.errors import CaseError
from raum_lightning.machine import usable_cores

# goes up when what is measured changes
VERSION = 3
CACHE = "checked.json"
# memory that all threads together may take, and what a voxel takes of it while a case is measured
MEMORY, BYTES_PER_VOXEL = 700e6, 7
# errors that a training lists before it refers to `raum check`
LISTED = 20


def check_cases(
    cases: Sequence[Case],
    modalities: Sequence[str],
    *,
    masked: bool | None = None,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Return the findings of all rules on cases; the arguments are those of `measure_cases` and `judge`."""
    return judge(cases, measure_cases(cases, cache=cache, progress=progress), modalities, masked=masked)


def judge(
    cases: Sequence[Case], facts: Sequence[Facts], modalities: Sequence[str], *, masked: bool | None = None
) -> list[Finding]:
    """Return what is wrong with cases by what was measured, in the order of the cases; what concerns all of them last.

    Args:
        cases: As `find_cases` gives them.
        facts: Of each case, as `measure_cases` gives them.
        modalities: What every case must have; of others that it has, all files that were measured are judged too.
        masked: Whether every case must have a mask; by default where any has one. Cases that a dataset.json lists, and
            those that the data set keeps for testing, need none.
    """
    masked = any(case.label for case in cases) if masked is None else masked
    subjects = [
        Subject(case, fact, modalities, masked and not case.channels and not case.held_out)
        for case, fact in zip(cases, facts, strict=True)
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


def check_before_training(
    by_id: Mapping[str, Case],
    modalities: Sequence[str],
    *,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
) -> str | None:
    """Check the files that a training reads; return a line about warnings, or None where there are none.

    Raises:
        CaseError: There are errors; the message lists them.
    """
    cases = [*by_id.values()]
    used = [replace(case, images={m: case.images[m] for m in modalities if m in case.images}) for case in cases]
    findings = judge(cases, measure_cases(used, cache=cache, progress=progress), modalities, masked=True)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        lines = [f"{finding.file}: {finding.message}; {finding.advice}" for finding in errors[:LISTED]]
        lines += [f"and {len(errors) - LISTED} more, which `raum check` lists"] if len(errors) > LISTED else []
        listed = "\n  ".join(lines)
        raise CaseError(
            f"{len({finding.case for finding in errors})} of {len(cases)} cases cannot be used; repair them or list "
            f"their ids under data.exclude (with data.check=false only what cannot be read must be):\n  {listed}"
        )
    if not findings:
        return None
    rules = Counter(finding.rule for finding in findings)
    return (
        f"{len(findings)} warnings on the cases ({', '.join(f'{name} {count}' for name, count in rules.items())}); "
        "`raum check` says which"
    )


def measure_cases(
    cases: Sequence[Case], *, cache: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> list[Facts]:
    """Return what was measured of each case.

    Args:
        cases: Of which all images and the mask are read.
        cache: Folder in which what was measured is kept, so that files that did not change are not read again.
        progress: Is told (done, of) for the cases that are read.
    """
    if cache:  # before the work, where it cannot be made
        cache.mkdir(parents=True, exist_ok=True)
    known = _read_cache(cache) if cache else {}
    keys = [_key(case) for case in cases]
    new = {key: case for key, case in zip(keys, cases, strict=True) if key not in known}
    measured = dict(known)
    with ThreadPoolExecutor(_workers([*new.values()])) as pool:
        for done, (key, fact) in enumerate(zip(new, pool.map(measure, new.values()), strict=True), 1):
            measured[key] = fact
            if progress:
                progress(done, len(new))
    if cache and new:
        write_text(cache / CACHE, json.dumps({key: fact.plain() for key, fact in measured.items()}))
    return [measured[key] for key in keys]


def _read_cache(folder: Path) -> Mapping[str, Facts]:
    try:
        content: dict[str, Any] = json.loads((folder / CACHE).read_text())
        return {key: Facts.of_plain(facts) for key, facts in content.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # not there, or of another version
        return {}


def _key(case: Case) -> str:
    """Return what changes when a file of the case does: paths, sizes, times, and what the values of its mask mean."""
    files = {str(path): _stat(path) for path in (*case.images.values(), case.label, case.brain) if path}
    known = case.dataset
    values = (known.name, known.classes, sorted(known.indices.items()), known.background)
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
    return max(1, min(8, usable_cores(), int(MEMORY / (max(voxels) * BYTES_PER_VOXEL + 1))))

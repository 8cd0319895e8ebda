"""`raum subsets`: a network's scores with each choice of the modalities that it was trained on."""

import argparse
from dataclasses import replace
from itertools import combinations

from raum_lightning.cli.network_scores import (
    Row,
    add_arguments,
    find_scored,
    find_scoring,
    mean_scores,
    open_segmenter,
    save,
    show,
)

COMMAND = "raum subsets"
FIRST = "modalities"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Score every subset, print the table, largest subsets first, and return 0."""
    from raum_lightning.progress import progress_bar

    segmenter = open_segmenter(args, COMMAND)
    card = segmenter.card
    cases = find_scored(args, segmenter)
    metrics, rules = find_scoring(args, cases, segmenter.card)
    names = card.modalities
    subsets = [kept for size in range(len(names), 0, -1) for kept in combinations(names, size)]
    # also without what it has not learnt to do without: the table shows what that costs
    segmenter.card = replace(card, may_lack=names)
    rows = []
    with progress_bar("scoring subsets") as progress:
        for number, kept in enumerate(subsets):
            fewer = [replace(case, images={name: case.images[name] for name in kept}) for case in cases]
            rows.append(Row(" ".join(kept), mean_scores(segmenter, fewer, metrics, rules)))
            progress(number + 1, len(subsets))
    show(rows, FIRST, f"means over {len(cases)} cases", metrics, rules)
    learnt = ", ".join(card.may_lack)
    print(f"trained to do without {learnt}" if learnt else "trained with all modalities there (no modality_dropout)")
    if args.out:
        ids = [case.id for case in cases]
        more = {"command": COMMAND, "checkpoint": str(args.checkpoint), "rules": rules.name, "cases": ids}
        save(args.out, rows, FIRST, **more, may_lack=list(card.may_lack))
    return 0

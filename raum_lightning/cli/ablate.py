"""`raum ablate`: a network's scores without each of its transformer blocks, and without all of them."""

import argparse

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
from raum_lightning.errors import ConfigError

COMMAND = "raum ablate"
FIRST = "replaced"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.epilog = "Blocks count from 1 at the image. A network that scores the same without them does not use them."
    add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Score the network with blocks replaced by the identity, print the table and return 0."""
    from raum_lightning.models.ablation import transformer_blocks, without_blocks
    from raum_lightning.progress import progress_bar

    segmenter = open_segmenter(args, COMMAND)
    if len(segmenter.networks) > 1:
        raise ConfigError(f"{args.checkpoint}: is an ensemble; give the checkpoint of one of its networks")
    network = segmenter.networks[0]
    depth = len(transformer_blocks(network))
    cases = find_scored(args, segmenter)
    metrics, rules = find_scoring(args, cases, segmenter.card)
    variants: dict[str, range] = {"none": range(0), "all blocks": range(depth)}
    variants |= {f"block {index + 1}": range(index, index + 1) for index in range(depth)}
    rows = []
    with progress_bar("scoring without blocks") as progress:
        for number, (name, indices) in enumerate(variants.items()):
            with without_blocks(network, indices):
                rows.append(Row(name, mean_scores(segmenter, cases, metrics, rules)))
            progress(number + 1, len(variants))
    title = f"blocks replaced by the identity; means over {len(cases)} cases"
    show(rows, FIRST, title, metrics, rules)
    if args.out:
        ids = [case.id for case in cases]
        save(args.out, rows, FIRST, command=COMMAND, checkpoint=str(args.checkpoint), rules=rules.name, cases=ids)
    return 0

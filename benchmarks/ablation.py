"""What is each part of network and recipe worth? Variants trained alike, at equal wall time or equal steps.

    python benchmarks/ablation.py --root DIR --test 6 --seconds 300 --seeds 0 1 2 --out runs/ablation
    python benchmarks/ablation.py --root DIR --variants v1 v2 monai_torchio --seconds 1200 --out runs/first
    python benchmarks/ablation.py --root DIR --processor --seconds 600 --parallel 2 --out runs/two_at_once
    python benchmarks/ablation.py --root DIR --steps 2000 --size 128 --embed 768 --depth 12 --heads 12 --out runs/full
    python benchmarks/ablation.py --root DIR --steps 800 --size 64 --variants all --parallel 14 --out runs/parts

Of 25 cases 6 are for testing and 19 train, the same for all variants, by patient and a hash of their ids; or those that
`--splits` names. At one seed all variants of the network see the same patches in the same order: a variant that takes
longer for a step sees the first of them. The learning rate rises over the first 20th of the time (or steps) and falls
by half a cosine to 0 at its end, whatever a step takes. The time is that of training, from the first request for a
batch to the last step; prepared volumes are made before. With `--processor` it is the time that the training had a
core, and each has one thread: then other work on the machine makes it wait, and takes from it no more than caches and
memory, and `--parallel 2` trains two at once. So it does with `--steps`, where time does not matter: one GPU holds a
dozen small trainings. Else `--parallel 2` has trainings take turns: one starts up, or tests, while the other trains.
Only what ran beside each other compares: the same training made 538 steps on one day and 309 on another.

Scores are those of whole test cases: mean over cases, then mean and standard deviation over seeds. Memory is the peak
of the process, or what the training took of the GPU where there is one.

`monai_torchio` is what one would write without this package: MONAI's UNETR and DiceCELoss, whole volumes through
TorchIO's `Queue` with its own transforms, of like strength. The learning rate is the same for all: what suits one
network best need not suit another.

Each finished training is a line of OUT/runs.jsonl. Started again with the same options, only what is not there is
trained. OUT/table.md and OUT/table.json are written anew after each, and OUT/<variant>-<seed>.json has the scores of
its cases, for `raum compare`.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from variants import NAMES, OURS, STOCK, Keys, MonaiLoss, Options, StockData, network_of

from raum_lightning import BratsDataModule, SegmentationModule
from raum_lightning.atomic import append_text, write_json, write_text
from raum_lightning.cases.discovery import find_cases
from raum_lightning.cases.splits import Split, make_split, read_split
from raum_lightning.cli.run_plan import lacks_bf16
from raum_lightning.datasets import load
from raum_lightning.metrics.evaluation import plain
from raum_lightning.phantom import write_phantoms
from raum_lightning.signals import end_after_parent
from raum_lightning.training.schedule import warmup_cosine

MODALITIES = ("flair", "t1ce", "t2")
METRICS = ("dice", "hd95", "lesion_dice")
PARTS = ("wt", "tc", "et", "mean")
TICKS = 1000  # parts of the schedule, of which a 20th are the warm-up


class Clock(pl.Callback):
    """How much of the time, or of the steps, has passed; ends training after it."""

    turn: ClassVar[Any] = None  # the lock of trainings that must not take time from each other

    def __init__(self, seconds: float | None, steps: int | None, *, processor: bool) -> None:
        self.seconds, self.steps, self.start, self.done = seconds, steps, 0.0, 0
        self.took, self.in_turn = 0.0, False
        self.now = time.process_time if processor else time.perf_counter

    def on_train_start(self, *unused: Any) -> None:
        """Wait for this training's turn and start the time, before the first batch is asked for."""
        if self.turn:
            self.turn.acquire()
            self.in_turn = True
        self.start = self.now()

    def on_train_end(self, *unused: Any) -> None:
        """Let the next training begin."""
        if self.in_turn:
            self.in_turn = False
            self.turn.release()

    def on_exception(self, *unused: Any) -> None:
        """Let the next training begin, which would wait for ever."""
        self.on_train_end()

    def on_train_batch_end(self, trainer: pl.Trainer, *unused: Any) -> None:
        """Count the step."""
        self.done += 1
        self.took = self.now() - self.start
        trainer.should_stop = self.share >= 1

    @property
    def share(self) -> float:
        """How much has passed, 1 at the end."""
        return self.done / self.steps if self.steps else self.took / (self.seconds or 1)

    def factor(self, step: int) -> float:
        """Return the factor on the learning rate."""
        tick = min(TICKS, int(TICKS * self.share))
        return warmup_cosine(tick, warmup_steps=TICKS // 20, total_steps=TICKS)


def train(name: str, seed: int, options: Options) -> dict[str, Any]:
    """Train and test one variant in this process, and return its scores."""
    torch.set_float32_matmul_precision("high")
    if at_once(options):
        torch.set_num_threads(1 if options.processor else max(1, torch.get_num_threads() // options.parallel))
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    pl.seed_everything(seed, workers=True, verbose=False)
    _, module_keys, data_keys = OURS.get(name, ({}, {}, {}))
    clock = Clock(options.seconds, options.steps, processor=options.processor)
    size = (options.size,) * 3
    data = (StockData if name == STOCK else BratsDataModule)(
        options.root,
        modalities=MODALITIES,
        roi_size=size,
        batch_size=options.batch,
        patches_per_epoch=options.batch * 10**5,
        splits=options.out / "splits.json",
        prepared_dir=options.prepared,
        num_workers=options.workers,
        seed=seed,
        **data_keys,
    )
    keys: Keys = {"lr": options.lr, "weight_decay": 1e-5} | module_keys
    if optimizer := keys.get("optimizer"):
        keys["optimizer"] = lambda groups: optimizer(groups, lr=options.lr)
    module = SegmentationModule(
        network_of(name, options),
        MonaiLoss() if name == STOCK else None,
        mode="labels",
        roi_size=size,
        overlap=options.overlap,
        sw_batch_size=2,
        metrics=METRICS,
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, clock.factor),
        **keys,
    )
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary"), False)
    trainer = pl.Trainer(
        max_epochs=-1,
        precision="32-true" if lacks_bf16("auto") else "bf16-mixed",
        gradient_clip_val=1.0,
        limit_val_batches=0,
        callbacks=[clock],
        enable_progress_bar=False,
        default_root_dir=options.out,
        **quiet,
    )
    trainer.fit(module, datamodule=data)
    device = module.device  # Lightning moves the module back to the CPU after a test
    memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    memory = memory or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    trainer.test(module, datamodule=data, verbose=False)
    scores: dict[str, Any] = {"cases": module.case_scores} | means(module, METRICS)
    if options.without:
        data.without = tuple(options.without)
        trainer.test(module, datamodule=data, verbose=False)
        scores |= {f"absent_{key}": value for key, value in means(module, ("dice",)).items()}
    parameters = sum(parameter.numel() for parameter in module.network.parameters()) / 1e6
    cost = {"seconds": clock.took, "steps": clock.done, "gib": memory / 2**30, "parameters": parameters}
    return {"variant": name, "seed": seed, "rules": module.rules.name, "device": str(device), **cost, **scores}


def means(module: SegmentationModule, metrics: Sequence[str]) -> dict[str, float]:
    """Return the mean over test cases of each metric and part."""
    names = [f"{metric}_{part}" for metric in metrics for part in PARTS]
    return {name: statistics.fmean(case[name] for case in module.case_scores.values()) for name in names}


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean and standard deviation over seeds of each variant, in the order of `NAMES`."""
    found = []
    for name in NAMES:
        runs = [row for row in rows if row["variant"] == name]
        if runs:
            numbers = [key for key, value in runs[0].items() if isinstance(value, float)]
            columns = {key: [float(row[key]) for row in runs] for key in (*numbers, "steps")}
            means = {key: statistics.fmean(values) for key, values in columns.items()}
            sds = {f"{key}_sd": statistics.stdev(v) if len(v) > 1 else None for key, v in columns.items()}
            found.append({"variant": name, "seeds": len(runs), **means, **sds})
    return found


def markdown(table: Sequence[dict[str, Any]], options: Options, device: str) -> str:
    """Return the table with a line that says how it was made."""
    length = f"{options.steps} steps" if options.steps else f"{options.seconds:g} s"
    length += " of one core" if options.processor else ""
    cases = " and ".join(f"{len(getattr(options.split, part))} {part}" for part in ("train", "test"))
    heading = ["variant", "seeds", *(f"Dice {part.upper()}" for part in PARTS[:3]), "Dice mean", "HD95 mean, mm"]
    heading += ["lesion-wise Dice", "parameters, M", "steps", "s a step", "peak GiB"]
    absent = [f"absent_dice_{part}" for part in PARTS] if options.without else []
    heading += [f"Dice {key[12:].upper()} without {', '.join(options.without)}" for key in absent]
    lines = [
        f"{length} each, {options.size}^3, batch {options.batch}, {cases} cases, {device}; mean ± sd over seeds",
        "",
    ]
    lines += [f"| {' | '.join(heading)} |", f"|{'---|' * len(heading)}"]
    for row in table:
        cells = [row["variant"], str(row["seeds"]), *(_spread(row, f"dice_{part}", 3) for part in PARTS)]
        cells += [_spread(row, "hd95_mean", 1), _spread(row, "lesion_dice_mean", 3), f"{row['parameters']:.1f}"]
        cells += [f"{row['steps']:.0f}", f"{row['seconds'] / row['steps']:.2f}", f"{row['gib']:.1f}"]
        cells += [_spread(row, key, 3) for key in absent]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _spread(row: dict[str, Any], key: str, digits: int) -> str:
    spread = row[f"{key}_sd"]
    return f"{row[key]:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")


def parse(words: Sequence[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--root", type=Path, help="cases with masks; synthetic ones are written where not given")
    add("--out", type=Path, default=Path("runs/ablation"))
    add("--prepared", type=Path, default=Path("runs/prepared"))
    add("--variants", nargs="+", default=["v1", "v2", STOCK], choices=[*NAMES, "all"], metavar="NAME", help=str(NAMES))
    add("--seeds", nargs="+", type=int, default=[0])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=30.0)
    length.add_argument("--steps", type=int)
    add("--processor", action="store_true", help="count the time of one core instead of that which passes")
    add("--parallel", type=int, default=1, help="processes; at once with --processor or --steps, else in turns")
    add("--without", nargs="+", default=[], choices=MODALITIES, help="also test with these modalities absent")
    cases = parser.add_mutually_exclusive_group()
    cases.add_argument("--test", type=int, default=2, help="number of test patients")
    cases.add_argument("--splits", type=Path, help="a file with train and test, as data.splits; val trains too")
    for name, value in {"size": 64, "batch": 2, "embed": 96, "depth": 4, "heads": 4, "workers": 0}.items():
        add(f"--{name}", type=int, default=value)
    add("--lr", type=float, default=1e-3)
    add("--overlap", type=float, default=0.25)
    options = parser.parse_args(words)
    if options.processor and options.workers:
        parser.error("--processor counts the time of the training's own process: leave --workers out")
    options.variants = list(NAMES) if "all" in options.variants else options.variants
    return options


def prepare(options: Options) -> None:
    """Write cases where there are none, the split, and the options, which must be those of what is there already."""
    if options.root is None:
        options.root = Path("runs/ablation-cases")
        write_phantoms(options.root, cases=8, seed=0, shape=(96, 96, 80), dataset=load("brats2020"))
    cases = [case for case in find_cases(options.root) if case.label]
    options.out.mkdir(parents=True, exist_ok=True)
    if options.splits:
        split = read_split(options.splits, cases)
    else:
        patients = len({case.patient for case in cases})
        split = make_split(cases, folds=2, test_fraction=options.test / patients)
    options.split = Split(sorted(split.train + split.val), [], split.test)
    options.split.save(options.out / "splits.json")
    free = ("variants", "seeds", "out", "prepared", "workers", "split", "parallel")
    fixed = {key: str(value) for key, value in vars(options).items() if key not in free}
    file = options.out / "options.json"
    if file.exists() and (before := json.loads(file.read_text())) != fixed:
        changed = sorted(key for key in fixed if before.get(key) != fixed[key])
        raise SystemExit(f"{options.out} holds runs with another {', '.join(changed)}; give another --out")
    write_json(file, fixed)


def at_once(options: Options) -> bool:
    """Whether trainings that run at the same time take nothing from each other that counts."""
    return options.processor or options.steps is not None


def begin(turn: Any) -> None:
    """Take turns with the other processes, and end with the one that started this."""
    Clock.turn = turn
    end_after_parent()


def results(tasks: Sequence[tuple[str, int]], options: Options) -> Iterator[dict[str, Any]]:
    """Return what `train` does for each variant and seed, in other processes; end with those that failed."""
    context = multiprocessing.get_context("spawn")
    turn = None if at_once(options) else context.Lock()
    tasks_each = None if torch.cuda.is_available() else 1  # the peak of a GPU's memory is asked for each training
    # not a Pool, whose processes may not have the loader's as children
    with ProcessPoolExecutor(options.parallel, context, begin, (turn,), max_tasks_per_child=tasks_each) as pool:
        futures = {pool.submit(train, *task, options): task for task in tasks}
        failed = []
        for future in as_completed(futures):
            if error := future.exception():
                failed.append("{}, seed {}: {}".format(*futures[future], error))
                print(failed[-1], flush=True)
            else:
                yield future.result()
    if failed:
        raise SystemExit("\n".join(["not trained:", *failed]))


def save_cases(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write for `raum compare` the scores of the cases by the last of `rows`, and their means over the variant's seeds.

    Without scores by the same rules, as those of an earlier version, a row is not among them.
    """
    last = rows[-1]
    runs = [row for row in rows if row["variant"] == last["variant"] and row.get("rules") == last["rules"]]
    means = {
        case: {name: statistics.fmean(run["cases"][case][name] for run in runs) for name in scores}
        for case, scores in last["cases"].items()
    }
    for said, short, cases in (
        (f"seed {last['seed']}", last["seed"], last["cases"]),
        (f"mean of {len(runs)} seeds", "mean", means),
    ):
        scored = {case: plain(scores) for case, scores in cases.items()}
        content = {"name": f"{last['variant']}, {said}", "rules": {"name": last["rules"]}, "cases": scored}
        write_json(folder / f"{last['variant']}-{short}.json".replace(" ", "_").replace(",", ""), content)


def main(words: Sequence[str] | None = None) -> None:
    options = parse(words)
    prepare(options)
    file = options.out / "runs.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(row["variant"], row["seed"]) for row in rows}
    # seed by seed, so that a table that is not complete has every variant
    tasks = [(name, seed) for seed in options.seeds for name in options.variants if (name, seed) not in done]
    for row in results(tasks, options):
        rows.append(row)
        append_text(file, json.dumps(row) + "\n")
        table = summary(rows)
        write_json(options.out / "table.json", {"rows": table, "runs": rows})
        write_text(options.out / "table.md", markdown(table, options, row["device"]))
        save_cases(rows, options.out)
        cost = f"{row['steps']} steps, {row['seconds']:.0f} s"
        print(f"{row['variant']}, seed {row['seed']}: Dice {row['dice_mean']:.3f}, {cost}", flush=True)
    print((options.out / "table.md").read_text())


if __name__ == "__main__":
    main()

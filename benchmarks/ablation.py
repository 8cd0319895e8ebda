"""What is each part of network and recipe worth? Variants trained alike, at equal wall time or equal steps.

    python benchmarks/ablation.py --root DIR --test 6 --seconds 300 --seeds 0 1 2 --out runs/ablation
    python benchmarks/ablation.py --root DIR --variants v1 v2 monai_torchio --seconds 1200 --out runs/first
    python benchmarks/ablation.py --root DIR --steps 2000 --size 128 --embed 768 --depth 12 --heads 12 --out runs/full

Of 25 cases 6 are for testing and 19 train, the same for all variants, by patient and a hash of their ids. At one seed
all variants of the network see the same patches in the same order: a variant that takes longer for a step sees the
first of them. The learning rate rises over the first 20th of the time (or steps) and falls by half a cosine to 0 at its
end, whatever a step takes. The time is that of training, from the first request for a batch to the last step; prepared
volumes are made before. Scores are those of whole test cases: mean over cases, then mean and standard deviation over
seeds. Memory is the peak of the process, or of the GPU where there is one.

`monai_torchio` is what one would write without this package: MONAI's UNETR and DiceCELoss, whole volumes through
TorchIO's `Queue` with its own transforms, of like strength. The learning rate is the same for all: what suits one
network best need not suit another.

Each finished training is a line of OUT/runs.jsonl. Started again with the same options, only what is not there is
trained. OUT/table.md and OUT/table.json are written anew after each.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torchio as tio
from monai.losses import DiceCELoss as MonaiDiceCELoss
from monai.networks import nets
from torch import Tensor, nn

from raum_lightning import BratsDataModule, SegmentationModule
from raum_lightning.atomic import append_text, write_json, write_text
from raum_lightning.cases.discovery import find_cases
from raum_lightning.cases.splits import Split, make_split
from raum_lightning.cli.run_plan import lacks_bf16
from raum_lightning.datasets import load
from raum_lightning.models import UNETR, UNETRV2
from raum_lightning.phantom import write_phantoms
from raum_lightning.training.optimizers import MuonAdamW
from raum_lightning.training.schedule import warmup_cosine

MODALITIES = ("flair", "t1ce", "t2")
METRICS = ("dice", "hd95", "lesion_dice")
PARTS = ("wt", "tc", "et", "mean")
TICKS = 1000  # parts of the schedule, of which a 20th are the warm-up
Options = argparse.Namespace
Keys = dict[str, Any]

PATCH_8: Keys = {"patch_size": 8}
STEM: Keys = {"stem": "conv"}
V2: Keys = PATCH_8 | STEM | {"skips": "stem", "position": "rope", "mlp": "swiglu", "qk_norm": True}
V2 |= {"layer_scale": 0.1, "drop_path": 0.2, "deep_supervision": True, "feature_size": 32, "norm": "instance_affine"}
RECIPE: Keys = {"ema": 0.99, "no_decay": True, "weight_decay": 5e-2}
# name -> arguments of UNETRV2, keys of `module`, keys of `data`; what is not named is that of v1
OURS: dict[str, tuple[Keys, Keys, Keys]] = {
    "v1": ({}, {}, {}),
    "patch 8": (PATCH_8, {}, {}),
    "stem": (STEM, {}, {}),
    "stem and its skips": (STEM | {"skips": "stem"}, {}, {}),
    "stem, both skips": (STEM | {"skips": "both"}, {}, {}),
    "rope": ({"position": "rope"}, {}, {}),
    "swiglu": ({"mlp": "swiglu"}, {}, {}),
    "qk_norm": ({"qk_norm": True}, {}, {}),
    "layer_scale": ({"layer_scale": 0.1}, {}, {}),
    "drop_path": ({"drop_path": 0.2}, {}, {}),
    "deep_supervision": ({"deep_supervision": True}, {}, {}),
    "feature_size 32": ({"feature_size": 32}, {}, {}),
    "instance_affine": ({"norm": "instance_affine"}, {}, {}),
    "batch norm": ({"norm": "batch"}, {}, {}),
    "ema": ({}, {"ema": 0.99}, {}),
    "no_decay": ({}, {"no_decay": True, "weight_decay": 5e-2}, {}),
    "layer_decay": ({}, {"layer_decay": 0.8}, {}),
    "muon": ({}, {"optimizer": MuonAdamW}, {}),
    "light augmentation": ({}, {}, {"augmentation": "light"}),
    "strong augmentation": ({}, {}, {"augmentation": "strong"}),
    "no augmentation": ({}, {}, {"augmentation": False}),
    "modality_dropout": ({}, {}, {"modality_dropout": {"flair": 0.2}}),
    "class_weights": ({}, {}, {"class_weights": {"NCR": 1, "ED": 1, "ET": 1}}),
    "v2": (V2, {}, {}),
    "v2, no deep_supervision": (V2 | {"deep_supervision": False}, {}, {}),
    "v2, feature_size 16": (V2 | {"feature_size": 16}, {}, {}),
    "v2, patch 16": (V2 | {"patch_size": 16}, {}, {}),
    "v2 with recipe": (V2, RECIPE, {}),
}
BASELINES: dict[str, Callable[[Options], nn.Module]] = {
    "monai_unetr": lambda o: nets.UNETR(
        3, 4, (o.size,) * 3, feature_size=16, hidden_size=o.embed, mlp_dim=4 * o.embed, num_heads=o.heads
    ),
    "segresnet": lambda o: nets.SegResNet(3, 16, 3, 4, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1)),
    "dynunet": lambda o: nets.DynUNet(3, 3, 4, [3] * 5, [1, 2, 2, 2, 2], [2] * 4, filters=[16, 32, 64, 128, 256]),
    "mednext": lambda o: nets.MedNeXt(in_channels=3, out_channels=4, init_filters=16, use_residual_connection=True),
    "swin_unetr_v2": lambda o: nets.SwinUNETR(3, 4, feature_size=24, use_v2=True),
}
STOCK = "monai_torchio"
NAMES = (*OURS, *BASELINES, STOCK)


class Clock(pl.Callback):
    """How much of the time, or of the steps, has passed; ends training after it."""

    def __init__(self, seconds: float | None, steps: int | None) -> None:
        self.seconds, self.steps, self.start, self.done = seconds, steps, 0.0, 0
        self.took = 0.0

    def on_train_start(self, *unused: Any) -> None:
        """Start the time, before the first batch is asked for."""
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *unused: Any) -> None:
        """Count the step."""
        self.done += 1
        self.took = time.perf_counter() - self.start
        trainer.should_stop = self.share >= 1

    @property
    def share(self) -> float:
        """How much has passed, 1 at the end."""
        return self.done / self.steps if self.steps else self.took / (self.seconds or 1)

    def factor(self, step: int) -> float:
        """Return the factor on the learning rate."""
        tick = min(TICKS, int(TICKS * self.share))
        return warmup_cosine(tick, warmup_steps=TICKS // 20, total_steps=TICKS)


class MonaiLoss(nn.Module):
    """MONAI's loss of class indices B X Y Z."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = MonaiDiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """B K X Y Z and B X Y Z to a scalar."""
        value: Tensor = self.loss(logits, labels[:, None])
        return value


def is_brain(image: Tensor) -> Tensor:
    return image != 0


class StockData(BratsDataModule):
    """Training patches as TorchIO's documentation has them; what is tested are the same prepared volumes."""

    def train_dataloader(self) -> Any:
        """Return batches of patches, half of them centred on tumour."""
        subjects = [
            tio.Subject(
                image=tio.ScalarImage([case.images[name] for name in self.modalities]), label=tio.LabelMap(case.label)
            )
            for case in (self.cases[name] for name in self.split.train)
        ]
        transform = tio.Compose(
            [
                tio.ToOrientation("LPS"),
                tio.RemapLabels(self.dataset.indices),
                tio.ZNormalization(masking_method=is_brain),
                tio.RandomFlip(axes=(0, 1, 2), flip_probability=0.5),
                tio.RandomAffine(scales=0.15, degrees=15, p=0.5),
                tio.RandomGamma(log_gamma=0.3, p=0.3),
                tio.RandomNoise(std=(0, 0.1), p=0.15),
            ]
        )
        weights = {0: 3, 1: 1, 2: 1, 3: 1}  # half of the patches on tumour
        sampler = tio.LabelSampler(self.roi_size, label_name="label", label_probabilities=weights)
        dataset = tio.SubjectsDataset(subjects, transform=transform)
        queue = tio.Queue(dataset, max_length=16, samples_per_volume=4, sampler=sampler, num_workers=0)
        return Batches(torch.utils.data.DataLoader(queue, batch_size=self.batch_size, num_workers=0))


class Batches:
    """Batches of TorchIO's queue in this package's form, without end."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            for batch in self.loader:
                image, label = batch["image"]["data"], batch["label"]["data"][:, 0]
                yield {"image": image.float(), "label": label.to(torch.uint8), "case": [""] * len(image)}


def network_of(name: str, options: Options) -> nn.Module:
    """Return a variant's network."""
    if name == STOCK:
        return BASELINES["monai_unetr"](options)
    if name in BASELINES:
        return BASELINES[name](options)
    keys = {"feature_size": 16, "patch_size": 16} | OURS[name][0]
    levels = keys["patch_size"].bit_length() - 1
    taken = [-(-options.depth * (level + 1) // levels) for level in range(levels)]
    size = {"img_size": options.size, "embed_dim": options.embed, "depth": options.depth, "num_heads": options.heads}
    if name == "v1":
        return UNETR(**size, **keys, mlp_dim=4 * options.embed, out_indices=taken)
    return UNETRV2(**size, **keys, out_indices=taken)


def train(name: str, seed: int, options: Options) -> dict[str, Any]:
    """Train and test one variant in this process, and return its scores."""
    torch.set_float32_matmul_precision("high")
    pl.seed_everything(seed, workers=True, verbose=False)
    _, module_keys, data_keys = OURS.get(name, ({}, {}, {}))
    clock = Clock(options.seconds, options.steps)
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
    memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    memory = memory or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    trainer.test(module, datamodule=data, verbose=False)
    scores = {
        f"{metric}_{part}": statistics.fmean(row[f"{metric}_{part}"] for row in module.case_scores.values())
        for metric in METRICS
        for part in PARTS
    }
    parameters = sum(parameter.numel() for parameter in module.network.parameters()) / 1e6
    cost = {"seconds": clock.took, "steps": clock.done, "gib": memory / 2**30, "parameters": parameters}
    return {"variant": name, "seed": seed, "device": str(module.device), **cost, **scores}


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
    cases = " and ".join(f"{len(getattr(options.split, part))} {part}" for part in ("train", "test"))
    heading = ["variant", "seeds", *(f"Dice {part.upper()}" for part in PARTS[:3]), "Dice mean", "HD95 mean, mm"]
    heading += ["lesion-wise Dice", "parameters, M", "steps", "s a step", "peak GiB"]
    lines = [
        f"{length} each, {options.size}^3, batch {options.batch}, {cases} cases, {device}; mean ± sd over seeds",
        "",
    ]
    lines += [f"| {' | '.join(heading)} |", f"|{'---|' * len(heading)}"]
    for row in table:
        cells = [row["variant"], str(row["seeds"]), *(_spread(row, f"dice_{part}", 3) for part in PARTS)]
        cells += [_spread(row, "hd95_mean", 1), _spread(row, "lesion_dice_mean", 3), f"{row['parameters']:.1f}"]
        cells += [f"{row['steps']:.0f}", f"{row['seconds'] / row['steps']:.2f}", f"{row['gib']:.1f}"]
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
    add("--test", type=int, default=2, help="number of test patients")
    for name, value in {"size": 64, "batch": 2, "embed": 96, "depth": 4, "heads": 4, "workers": 0}.items():
        add(f"--{name}", type=int, default=value)
    add("--lr", type=float, default=1e-3)
    add("--overlap", type=float, default=0.25)
    options = parser.parse_args(words)
    options.variants = list(NAMES) if "all" in options.variants else options.variants
    return options


def prepare(options: Options) -> None:
    """Write cases where there are none, the split, and the options, which must be those of what is there already."""
    if options.root is None:
        options.root = Path("runs/ablation-cases")
        write_phantoms(options.root, cases=8, seed=0, shape=(96, 96, 80), dataset=load("brats2020"))
    cases = [case for case in find_cases(options.root) if case.label]
    options.out.mkdir(parents=True, exist_ok=True)
    patients = len({case.patient for case in cases})
    split = make_split(cases, folds=2, test_fraction=options.test / patients)
    options.split = Split(sorted(split.train + split.val), [], split.test)
    options.split.save(options.out / "splits.json")
    free = ("variants", "seeds", "out", "prepared", "workers", "split")
    fixed = {key: str(value) for key, value in vars(options).items() if key not in free}
    file = options.out / "options.json"
    if file.exists() and (before := json.loads(file.read_text())) != fixed:
        changed = sorted(key for key in fixed if before.get(key) != fixed[key])
        raise SystemExit(f"{options.out} holds runs with another {', '.join(changed)}; give another --out")
    write_json(file, fixed)


def apart(name: str, seed: int, options: Options) -> dict[str, Any]:
    """Return what `train` does, in a process of its own, whose peak of memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        row: dict[str, Any] = pool.apply(train, (name, seed, options))
    return row


def main(words: Sequence[str] | None = None) -> None:
    options = parse(words)
    prepare(options)
    file = options.out / "runs.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(row["variant"], row["seed"]) for row in rows}
    # seed by seed, so that a table that is not complete has every variant
    tasks = [(name, seed) for seed in options.seeds for name in options.variants if (name, seed) not in done]
    for name, seed in tasks:
        row = apart(name, seed, options)
        rows.append(row)
        append_text(file, json.dumps(row) + "\n")
        table = summary(rows)
        write_json(options.out / "table.json", {"rows": table, "runs": rows})
        write_text(options.out / "table.md", markdown(table, options, row["device"]))
        print(
            f"{name}, seed {seed}: Dice {row['dice_mean']:.3f}, {row['steps']} steps, {row['seconds']:.0f} s",
            flush=True,
        )
    print((options.out / "table.md").read_text())


if __name__ == "__main__":
    main()

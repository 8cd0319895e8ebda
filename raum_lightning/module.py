"""Training, validation and prediction of a segmentation network as a LightningModule."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from raum_lightning.datasets import DataSet
from raum_lightning.errors import CheckpointError, ConfigError, UserError
from raum_lightning.inference.card import ModelCard
from raum_lightning.inference.compiling import compile_network
from raum_lightning.inference.loading import PREFIX, check_finite_weights, trusted_parts
from raum_lightning.inference.weights import Converter, lines, source_of, start_from
from raum_lightning.losses import DiceCELoss, deep_supervision
from raum_lightning.machine import keep_memory
from raum_lightning.metrics import METRICS, SegmentationMetrics, find_rules
from raum_lightning.metrics.measures import part_name
from raum_lightning.models.accelerate import accelerate, slow_down
from raum_lightning.models.described import Described
from raum_lightning.postprocess import Postprocess
from raum_lightning.runs.checkpoints import MODEL_CARD
from raum_lightning.training.callbacks.average import CURRENT, AveragedWeights
from raum_lightning.training.callbacks.checkpoint import TrainedCases
from raum_lightning.training.callbacks.search import PostprocessSearch
from raum_lightning.training.checkpoint_io import EXPORT, VerifiedCheckpointIO
from raum_lightning.training.data_fit import check_classes, check_fit, check_outputs, outputs_of
from raum_lightning.training.freezing import Frozen
from raum_lightning.training.length import LastValidation, TotalSteps, only_timer, run_length
from raum_lightning.training.model_card import describe, scores_of_run
from raum_lightning.training.optimizers import Recipe
from raum_lightning.training.option_checks import check_flips, check_mode, check_monitor, check_windows
from raum_lightning.training.schedule import is_due
from raum_lightning.training.scoring import pseudo_dice
from raum_lightning.training.sharding import check_strategy, shard
from raum_lightning.training.whole_volumes import SEARCH, Batch, WholeVolumeModule


class SegmentationModule(WholeVolumeModule):
    """A network, its loss and its optimiser; scores whole volumes by sliding window.

    Batches are those of `BratsDataModule`. Training logs `train/loss` and a pseudo-Dice, that of the patches seen;
    `val/` and `test/` metrics are means over cases on whole volumes, each case once.

    Args:
        network: Maps images B C X Y Z to logits B K X Y Z: one channel per class, or per region.
        loss: Called with logits B K X Y Z and class indices B X Y Z; `DiceCELoss()` where not given. The indices are
            uint8 for `DiceCELoss` and int64 for any other, as `torch.nn.CrossEntropyLoss` wants them. `val/loss` is
            over the voxels that a window saw, which the loss is given as 1 K N 1 1. MONAI's losses, which want
            B 1 X Y Z, stand within `raum_lightning.losses.WithChannel`.
        mode: What the channels of the logits are: classes under a softmax (labels), or regions under sigmoids; that of
            `DiceCELoss` where not given, and labels with another loss.
        roi_size: Window of the sliding window in voxels; the network's `img_size` where not given.
        overlap: Shared fraction of adjacent windows, in [0, 1).
        sw_batch_size: Windows per forward pass.
        flips: Test-time augmentation: mirrored images whose outputs are averaged at test and prediction: 1, 2, 4 or 8.
        metrics: What is computed per case; see `raum_lightning.metrics`.
        rules: By which it is computed: brats2020 (to 2022), brats2023, brats2023-men, brats2023-met, brats2024 or
            brats2026 (2025 on); by default the data set's `scoring`, and brats2020 where it has none.
        postprocess: How predicted masks are cleaned: a YAML file of `raum postprocess fit`; search, which fits it on
            the validation cases when training ends (without thresholds, for which it would hold the probabilities of
            all cases in memory); or none. Kept in the model card, which `test`, `predict` and `raum segment` follow
            where nothing is given; `test` prints the scores of raw and cleaned masks.
        monitor: The score of validation by which the best checkpoint is chosen: a metric and a part, such as dice_mean
            or hd95_et, or loss.
        lr: Learning rate of AdamW after the warm-up.
        weight_decay: Weight decay of AdamW.
        betas: Decay of AdamW's running means of the gradient and of its square.
        no_decay: No weight decay of norms, biases and positions.
        layer_decay: Factor on the learning rate from each layer of the transformer to the one before it, in (0, 1].
        warmup_steps: Optimiser steps of linear warm-up; then the rate decays to 0 at the last step of the run.
        schedule: How it decays: cosine, or polynomial as in nnU-Net.
        optimizer: Replaces AdamW: called with groups of parameters. `lr`, `weight_decay` and `betas` are AdamW's
            alone, its own arguments stand beside its name; no_decay and layer_decay apply.
        lr_scheduler: Replaces warm-up and decay: called with the optimiser, and stepped after each of its
            steps, not after epochs.
        ema: Decay of a running mean of the network's weights, such as 0.999: the mean is what is validated, saved as
            the network and segmented with.
        init_from: File whose weights a new run starts from, as far as they fit: a checkpoint, *.safetensors, or a state
            dict of MONAI's UNETR or ViT. Weights of other programs are read by a class: `Renamed`, or one of your own,
            of `raum_lightning.inference.converters`. A table says what became of each tensor.
        freeze: Parts of the network that are not trained, such as vit.
        thaw_after: Steps after which they are trained too; never where not given.
        compile: Run the network under `torch.compile`: minutes at the start (what it gains: benchmarks/README.md).

    Raises:
        ConfigError: A value cannot be used; the message names its key.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module | None = None,
        *,
        mode: Literal["labels", "regions"] | None = None,
        roi_size: tuple[int, int, int] | None = None,
        overlap: float = 0.5,
        sw_batch_size: int = 1,
        flips: int = 1,
        metrics: Sequence[str] = ("dice", "precision", "recall"),
        rules: str = "default",
        postprocess: str | None = None,
        monitor: str = "dice_mean",
        lr: float = 1e-4,
        weight_decay: float = 1e-5,
        betas: tuple[float, float] = (0.9, 0.999),
        no_decay: bool = False,
        layer_decay: float = 1.0,
        warmup_steps: int = 500,
        schedule: Literal["cosine", "polynomial"] = "cosine",
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        ema: float | None = None,
        init_from: str | Converter | None = None,
        freeze: Sequence[str] = (),
        thaw_after: int | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        # the command line adds how network and loss were made, so that `load_from_checkpoint` needs no arguments
        self.save_hyperparameters(ignore=["network", "loss", "optimizer", "lr_scheduler", "init_from"], logger=False)
        if isinstance(network, Described):  # for a Trainer of the user's own
            self.save_hyperparameters({"network": network.spec}, logger=False)
        self.network = network
        self.loss = loss or DiceCELoss()
        self.mode = check_mode(mode, self.loss)
        self.windows = check_windows(network, roi_size, overlap, sw_batch_size)
        self.flips = check_flips(flips)
        self.recipe = Recipe(
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            lr=lr,
            weight_decay=weight_decay,
            betas=betas,
            no_decay=no_decay,
            layer_decay=layer_decay,
            warmup_steps=warmup_steps,
            schedule=schedule,
        )
        self.init_from = init_from
        # the file, and the cases of this data set that trained its weights
        self.started_from: tuple[str, frozenset[str]] | None = None
        self.frozen = Frozen(network, freeze, thaw_after)
        self.average = None if ema is None else AveragedWeights(ema)
        self.monitor = monitor
        self.compiles = compile
        self.rules, self.follows_rules = find_rules(rules), rules == "default"
        self.postprocess = postprocess
        self.steps = Postprocess() if postprocess in (None, SEARCH, "none") else Postprocess.read(Path(postprocess))
        self.val_metrics = SegmentationMetrics(metrics, rules=self.rules)
        self.test_metrics = SegmentationMetrics(metrics, rules=self.rules)
        check_monitor(monitor, self.val_metrics.metrics)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override] # the file is checked, so that it must be one
        cls, checkpoint_path: Path | str, *args: Any, trust: Iterable[str] = (), **kwargs: Any
    ) -> Self:
        """Return the module as it was saved, weights included, from a file that `raum fit` wrote.

        As Lightning's, but what the file says of network and loss is made only of classes of this package, MONAI's and
        those of the modules in `trust`; a `network` or `loss` that is given replaces them. An `optimizer` and an
        `lr_scheduler` are not made again: give them to train on with them. Masks are cleaned as the model card says.

        Raises:
            CheckpointError: The file is damaged, names code that is not trusted, or holds arguments of no module.
        """
        # of these the file holds names, of classes and of files, which are not followed
        kwargs = dict.fromkeys(("optimizer", "lr_scheduler", "init_from", "postprocess")) | kwargs
        kwargs |= trusted_parts(Path(checkpoint_path), kwargs, trust)
        # the parts are made: Lightning's instantiator, which would make them from any code, is not called
        kwargs |= {"weights_only": True, "_instantiator": None}
        try:
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        except UserError:
            raise
        except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise CheckpointError(f"{checkpoint_path}: no module can be made of it ({reason})") from error

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits B K X Y Z of images B C X Y Z of the network's size."""
        logits: torch.Tensor = self.network(image)
        return logits

    @property
    def lower_is_better(self) -> bool:
        """Whether a lower value of `monitor` is better."""
        return self.monitor == "loss" or METRICS[part_name(self.monitor)[0]].better < 0

    def check_data(self, data: Any, *, fitting: bool = True) -> None:
        """Check that network, loss, optimiser and data (a `BratsDataModule`) fit, by a made-up patch without values.

        Raises `ConfigError`. Where not `fitting` the number of classes is left to `setup`, which knows the cases.
        """
        self._follow(data.dataset)
        check_fit(self, data, fitting=fitting)
        if fitting:
            self.recipe.build(self, lambda: math.inf)  # for what they refuse

    def start_from(self, data: Any) -> None:
        """Load the weights of `init_from`, once, for the modalities and classes of `data` (a `BratsDataModule`)."""
        if self.init_from is None:
            return
        source, self.init_from = source_of(self.init_from), None
        names = outputs_of(data.dataset, self.mode)
        table, weights = start_from(source, self.network, modalities=data.modalities, outputs=names)
        self.started_from = str(source), weights.seen(data.dataset.name)
        for line in lines(source, table, weights):
            rank_zero_info(line)

    def _follow(self, dataset: DataSet) -> None:
        """Take regions, classes and scoring of the data set, for the loss and for the scores."""
        self.regions = dataset.regions
        if self.follows_rules:
            self.rules = find_rules(dataset.scoring)
        for metrics in (self.val_metrics, self.test_metrics):
            metrics.follow(self.rules.of(dataset.classes), self.regions, dataset.classes)
        self.steps.check(self.regions)
        if isinstance(self.loss, DiceCELoss):
            self.loss.follow(dataset)
        check_monitor(self.monitor, self.val_metrics.metrics, dataset.regions)

    def setup(self, stage: str) -> None:
        """Check that strategy, network and data fit together, and compile the network where asked to."""
        check_strategy(self.trainer.strategy, averaged=self.average is not None)
        device = self.trainer.strategy.root_device.type
        if device == "cpu":
            keep_memory()
        slow_down(self.network)
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self.check_data(data, fitting=stage == "fit")
            if (outputs := getattr(self.network, "out_channels", None)) is not None:
                check_outputs(outputs, self.mode, data.dataset, fewer=stage == "predict")
            if stage == "fit":
                self.start_from(data)
        if stage == "fit":
            self.frozen.begin()
        accelerate(self.network, device, compiled=self.compiles)
        if self.compiles:
            compile_network(self.network, report=rank_zero_info)

    def configure_model(self) -> None:
        """Shard the network where the strategy, `ModelParallelStrategy`, has a mesh of devices."""
        if self.device_mesh is not None:
            shard(self.network, self.device_mesh)

    def on_train_start(self) -> None:
        """Check that the schedule fits the run, where this is known before its first steps."""
        # with fast_dev_run of one step, whose learning rate is of no matter
        if not getattr(self.trainer, "fast_dev_run", False) and not only_timer(self.trainer):
            schedulers = [config.scheduler for config in self.trainer.lr_scheduler_configs]
            self.recipe.check_length(run_length(self.trainer), next(iter(schedulers), None))
            self.frozen.check_length(run_length(self.trainer))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Leave the statistics of frozen norms as they are."""
        self.frozen.hold_statistics(self.global_step)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave frozen parts as they are."""
        self.frozen.hold(self.global_step)

    def configure_callbacks(self) -> list[pl.Callback]:
        """Return those of every run, and the running mean of the weights and the search for steps if asked for."""
        search = [PostprocessSearch()] if self.postprocess == SEARCH else []
        return [*([self.average] if self.average else []), *search, TrainedCases(), LastValidation()]

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the loss of a batch of patches."""
        output = self.network(batch["image"])
        several = output if isinstance(output, tuple) else (output,)  # a tuple with deep supervision
        loss, logits = deep_supervision(self.loss_of, several, batch["label"]), several[0]
        # not for Lightning's bar, which would fetch it from the device in every step: `ProgressBar` does in some
        self.log("train/loss", loss, sync_dist=True, batch_size=len(logits))
        trainer: Any = self.trainer
        # which counts this step, as Lightning does where it hands on what is logged
        if is_due(self.global_step + 1, trainer.log_every_n_steps):
            dice = pseudo_dice(logits.detach(), batch["label"], self.mode, self.regions)
            self.log("train/pseudo_dice", dice, sync_dist=True, batch_size=len(logits))
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the model card, which `raum_lightning.load` needs."""
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            checkpoint[MODEL_CARD] = describe(self, data).to_plain()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise `CheckpointError` for weights that are NaN, `GeometryError` where voxels are not those that trained."""
        trainer = self._trainer  # none where a program loads the checkpoint
        if self.device_mesh is not None and trainer is not None:
            # the strategy has looked at no checksum, and kept the weights, which callbacks want to see, to itself
            content = VerifiedCheckpointIO().load_checkpoint(str(trainer.ckpt_path), weights_only=True)
            checkpoint["state_dict"] = content["state_dict"]
        if trainer is not None and trainer.training and CURRENT in checkpoint and not self.average:
            raise ConfigError(f"{trainer.ckpt_path} holds a mean of weights: resume with the module.ema of its run")
        weights = {
            name: checkpoint["state_dict"].get(name) for name, one in self.named_parameters() if one.requires_grad
        }
        check_finite_weights(weights, getattr(trainer, "ckpt_path", None))
        if EXPORT in checkpoint:  # which has nothing of the loss
            own = {name: value for name, value in self.state_dict().items() if not name.startswith(PREFIX)}
            checkpoint["state_dict"] |= own
        data = getattr(trainer, "datamodule", None)
        card = ModelCard.of_checkpoint(checkpoint)
        if data is not None and trainer is not None and not trainer.training and card is not None:
            data.check_trained(card.orientation, card.spacing)
            if not trainer.predicting:
                check_classes(card.classes, data.dataset)
        fitting = trainer is not None and trainer.training
        if fitting and card is not None:
            self.val_scores = scores_of_run(card, trainer)
        if card is not None and not fitting and self.postprocess in (None, SEARCH):
            self.steps = Postprocess.of(card.postprocess or {}, "the model card's postprocess")

    def configure_optimizers(self) -> Any:
        """Return the optimiser, and its scheduler, which is stepped after every step of it."""
        total_steps = TotalSteps(self.trainer)
        # asked now for the length of epochs, Lightning (2.6) would set up the data before it knows where to resume
        optimizer, scheduler = self.recipe.build(self, total_steps, by_time=total_steps.by_time)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"}}

"""What a run keeps of its configuration, for itself and for its loggers."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from raum_lightning.atomic import write_text
from raum_lightning.runs.folder import RunFolder
from raum_lightning.training.callbacks.attributes import data_of
from raum_lightning.training.provenance import note_start, provenance


class SaveConfig(SaveConfigCallback):
    """Writes the run's `config.yaml` and `splits.json` when it trains, and tells the loggers the configuration."""

    def __init__(
        self, parser: LightningArgumentParser, config: Any, *, text: str, code: Sequence[Path], **kwargs: Any
    ) -> None:
        super().__init__(parser, config, save_to_log_dir=False, **kwargs)
        self.text, self.code = text, code

    def save_config(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """On rank 0, once."""
        if stage != "fit":
            return
        run, data = RunFolder(Path(trainer.default_root_dir)), data_of(trainer)
        write_text(run.config, self.text)
        data.split.save(run.splits)
        made_of = provenance(data)
        note_start(run, made_of | {"code": [str(folder.resolve()) for folder in self.code]})
        for logger in trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(self.text) | {"provenance": made_of, "split": asdict(data.split)})

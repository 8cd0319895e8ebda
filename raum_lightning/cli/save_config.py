"""What a run keeps of its configuration, for itself and for its loggers."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from raum_lightning.atomic import write_text
from raum_lightning.cases.splits import Split
from raum_lightning.errors import RunError
from raum_lightning.json_files import read_json
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

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Check on every rank, before anything is written, that a run that goes on has the cases it began with."""
        if stage == "fit":
            _check_split(RunFolder(Path(trainer.default_root_dir)), data_of(trainer).split)
        super().setup(trainer, pl_module, stage)

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


def _check_split(run: RunFolder, split: Split) -> None:
    """Raise `RunError` where the run has been trained on other cases than those of the split."""
    if not (run.saved and run.splits.is_file()):
        return
    now = asdict(split)
    before = read_json(run.splits, RunError, keys={part: [str] for part in now})
    for part, cases in now.items():
        if different := sorted({*before[part]} ^ {*cases}):
            raise RunError(
                f"{run.path} began with other cases: {len(before[part])} {part} and now {len(cases)}, of which "
                f"{', '.join(different[:5])} {'differ' if len(different) > 1 else 'differs'}; give --data.splits "
                f"{run.splits} to go on with its own, or train another run under another --run.id"
            )

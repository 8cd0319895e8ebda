"""What makes any experiment small enough to run in a test, and changes nothing that it states otherwise."""

from pathlib import Path
from typing import Any

import yaml

from raum_lightning.cli.config_inheritance import read_files

SMALL: dict[str, dict[str, Any]] = {
    "module": {"overlap": 0, "warmup_steps": 1},
    "data": {"roi_size": [32, 32, 32], "patches_per_epoch": 4, "num_workers": 0, "batch_size": 2, "test_fraction": 0.3},
    "trainer": {
        "accelerator": "cpu",
        "precision": "32-true",
        "max_steps": 2,
        "check_val_every_n_epoch": 1,
        "enable_progress_bar": False,
        "logger": {"class_path": "raum_lightning.loggers.CSVLogger"},
        "callbacks": [],
    },
}
_UNETR = {
    "embed_dim": 24,
    "depth": 4,
    "num_heads": 2,
    "mlp_dim": 48,
    "out_indices": [1, 2, 3, 4],
    "feature_size": 4,
}
# by class path; any other network runs at the size that its experiment states
NETWORKS: dict[str, dict[str, Any]] = {
    "raum_lightning.models.UNETR": _UNETR,
    "raum_lightning.models.UNETRV2": _UNETR | {"patch_size": 8, "out_indices": [1, 2, 4], "feature_size": 8},
    "monai.networks.nets.SegResNet": {"init_filters": 8},
    "monai.networks.nets.UNETR": {"img_size": [32] * 3, "feature_size": 4, "hidden_size": 24, "mlp_dim": 48},
    "monai.networks.nets.SwinUNETR": {"feature_size": 12, "depths": [1] * 4, "num_heads": [1] * 4},
    "monai.networks.nets.DynUNet": {"filters": [4] * 6},
    "monai.networks.nets.MedNeXt": {"init_filters": 4, "blocks_down": [1] * 4, "blocks_up": [1] * 4},
}
# five halvings of 32 leave one voxel, which instance norm refuses in training: 64 along one axis
LARGER = {"monai.networks.nets.SwinUNETR", "monai.networks.nets.DynUNet"}


def shrink(experiment: Path, folder: Path) -> list[str]:
    """Return the arguments that train `experiment` in two steps; the file that they add is written below `folder`.

    It has the experiment's name, after which the run's folder is called.
    """
    stated = read_files([experiment]).tree["module"]["network"]
    network, init_args = stated["class_path"], dict(NETWORKS.get(stated["class_path"], {}))
    if stride := stated.get("init_args", {}).get("stem_stride"):
        init_args["patch_size"] *= stride  # as many levels, and blocks that they take
    sizes: dict[str, Any] = {"network": {"init_args": init_args}}
    size = {"roi_size": [64 if network in LARGER else 32, 32, 32]}
    if network.startswith("monai."):
        sizes |= size  # which have no img_size
    file = folder / "small" / experiment.name
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(SMALL | {"module": SMALL["module"] | sizes, "data": SMALL["data"] | size}))
    return ["-c", str(experiment), "-c", str(file)]

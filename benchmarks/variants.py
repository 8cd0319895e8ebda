"""The variants that `ablation.py` trains: parts of network and recipe, other networks, and MONAI's UNETR on TorchIO."""

from argparse import Namespace as Options
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchio as tio
from monai.losses import DiceCELoss as MonaiDiceCELoss
from monai.networks import nets
from torch import Tensor, nn

from raum_lightning import BratsDataModule
from raum_lightning.data.augment import RandomBiasField, default_augmentation
from raum_lightning.models import UNETR, UNETRV2
from raum_lightning.training.optimizers import MuonAdamW

Keys = dict[str, Any]

PATCH_8: Keys = {"patch_size": 8}
STEM: Keys = {"stem": "conv"}
V2: Keys = PATCH_8 | STEM | {"skips": "stem", "position": "rope", "mlp": "swiglu", "qk_norm": True}
V2 |= {"layer_scale": 0.1, "drop_path": 0.2, "deep_supervision": True, "feature_size": 32, "norm": "instance_affine"}
# as many operations as v1: v2 needs three times as many
SMALL: Keys = V2 | {"patch_size": 16, "feature_size": 16, "stem_size": 16, "drop_path": 0.0}
HALF: Keys = SMALL | {"norm": "group", "stem_stride": 2}
# as experiments/unetr_v2_small.yaml
SPATIAL, *INTENSITY = default_augmentation().transforms
FIELD = RandomBiasField(coefficients=0.2, order=2, brain_mean=3, each_channel=True, p=0.5)
BIAS_FIELD: Keys = {"augmentation": [SPATIAL, FIELD, *INTENSITY]}
FLAIR_FROM_T2: Keys = {"modality_dropout": {"flair": 0.2}, "fill_absent": {"flair": "t2"}}
OFTEN_ABSENT: Keys = BIAS_FIELD | {"modality_dropout": {"flair": 0.5}}
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
    "group norm": ({"norm": "group"}, {}, {}),
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
    "v2 small": (SMALL, {}, {}),
    "v2 small, patch 8": (SMALL | {"patch_size": 8}, {}, {}),
    "v2 small, group norm": (SMALL | {"norm": "group"}, {}, {}),
    "v2 small, stem_stride 2": (HALF, {}, {}),
    "v2 small, batch norm": (SMALL | {"norm": "batch"}, {}, {}),
    "v2 small, no deep_supervision": (SMALL | {"deep_supervision": False}, {}, {}),
    "v2 small, drop_path 0.2": (SMALL | {"drop_path": 0.2}, {}, {}),
    "v2 small with recipe": (SMALL, RECIPE, {}),
    "v2 small, stem_stride 2, muon": (HALF, {"optimizer": MuonAdamW}, {}),
    "v2 small, stem_stride 2, modality_dropout": (HALF, {}, {"modality_dropout": {"flair": 0.2}}),
    "v2 small, stem_stride 2, modality_dropout, fill_absent": (HALF, {}, FLAIR_FROM_T2),
    "v2 small, stem_stride 2, bias field": (HALF, {}, BIAS_FIELD),
    "v2 small, stem_stride 2, bias field, modality_dropout 0.5": (HALF, {}, OFTEN_ABSENT),
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
        length = 4 * max(4, self.num_workers)
        queue = tio.Queue(dataset, length, samples_per_volume=4, sampler=sampler, num_workers=self.num_workers)
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
    levels = (keys["patch_size"] // keys.get("stem_stride", 1)).bit_length() - 1
    taken = [-(-options.depth * (level + 1) // levels) for level in range(levels)]
    size = {"img_size": options.size, "embed_dim": options.embed, "depth": options.depth, "num_heads": options.heads}
    if name == "v1":
        return UNETR(**size, **keys, mlp_dim=4 * options.embed, out_indices=taken)
    return UNETRV2(**size, **keys, out_indices=taken)

"""Draw twelve training patches as a network gets them: augmented, each with its mask.

    python docs/patches.py runs/phantom-cases patches.png
    python docs/patches.py /data/BraTS2020 patches.png --size 128 --modality t1ce

Each pair is one patch's middle slice across the third axis, plain and under its mask. Images and masks must match, and
no seam may run through a patch. The background is grey where noise or a shift was added to it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from raum_lightning.data.datamodule import BratsDataModule
from raum_lightning.errors import ConfigError, UserError
from raum_lightning.figures.paint import class_colours, grey, overlay

COLUMNS, ROWS = 4, 3


def main(args: Sequence[str] | None = None) -> int:
    """Draw and write; return 0, or 2 where the folder or an option cannot be used, which one sentence says."""
    try:
        draw(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def draw(args: Sequence[str] | None) -> None:
    """Read the arguments, draw the patches and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder with cases")
    parser.add_argument("out", type=Path, help="picture to write")
    parser.add_argument("--size", type=int, default=96, help="edge of the patches in voxels")
    parser.add_argument("--modality", default="flair", help="which one is shown")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(args)
    if not options.out.parent.is_dir():
        raise ConfigError(f"{options.out.parent}: no such folder to write the picture to")
    if options.out.suffix.lstrip(".").lower() not in Figure().canvas.get_supported_filetypes():
        raise ConfigError(f"{options.out}: has no ending of a picture; try {options.out.with_suffix('.png')}")

    data = BratsDataModule(
        options.root,
        modalities=[options.modality],
        roi_size=(options.size,) * 3,
        batch_size=COLUMNS * ROWS,
        patches_per_epoch=COLUMNS * ROWS,
        foreground_probability=1,
        num_workers=0,
        seed=options.seed,
    )
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    by_class, classes = class_colours(data.dataset), data.dataset.classes
    figure = Figure((4 * COLUMNS, 2.2 * ROWS), facecolor="black", layout="constrained")
    axes = figure.subplots(ROWS, 2 * COLUMNS)
    for number, (image, label, case) in enumerate(zip(batch["image"], batch["label"], batch["case"], strict=True)):
        plain, masked = axes[number // COLUMNS, 2 * (number % COLUMNS) :][:2]
        shown = grey(image[0].numpy())[:, :, options.size // 2].T
        codes = label.numpy()[:, :, options.size // 2].T
        plain.imshow(shown, cmap="gray", vmin=0, vmax=255)
        masked.imshow(overlay(shown, codes, by_class))
        plain.set_title(case, color="white", size=7)
    for each in axes.flat:
        each.axis("off")
    colours = ", ".join(f"{classes[index]} {colour}" for index, colour in by_class.items())
    figure.savefig(options.out, dpi=110)
    print(f"{options.out}: {COLUMNS * ROWS} patches of {options.size}^3, {options.modality}; {colours}")


if __name__ == "__main__":
    sys.exit(main())

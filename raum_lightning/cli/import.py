"""`raum import`: weights of another library as a file of ours, and back."""  # noqa: N999 - a verb

import argparse
from pathlib import Path

from raum_lightning.errors import ConfigError

COMMAND = "raum import"
LIBRARIES = ("monai",)
# what only a file of ours can hold, or needs to be told
OF_SOURCE = ("heads", "img_size", "modalities", "dataset", "mode")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.epilog = (
        "With --modalities and --dataset the file can be segmented with; volumes are taken as LPS with voxels of 1 mm. "
        "Without, it is for module.init_from."
    )
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--from", dest="source", nargs=2, metavar=("monai", "FILE"), help="state dict of MONAI's UNETR")
    way.add_argument(
        "--to", dest="target", nargs=2, metavar=("monai", "CKPT"), help="a checkpoint or .safetensors of ours"
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FILE", help=".safetensors, or .pt with --to")
    add("--heads", type=int, help="heads of the attention (default: one for 64 numbers of a token)")
    add("--img-size", type=int, nargs=3, metavar=("X", "Y", "Z"), help="in voxels (default: a cube)")
    add("--modalities", nargs="+", help="what the input channels are, such as flair t1ce t2")
    add("--dataset", help="whose classes the outputs are: a name of `raum datasets`, a YAML file or a dataset.json")
    add("--mode", choices=("labels", "regions"), help="what the outputs are (default: labels)")


def run(args: argparse.Namespace) -> int:
    """Convert the checkpoint, print a summary of the network, and return 0."""
    from raum_lightning.inference.foreign import export_monai, import_monai

    library, file = args.source or args.target
    suffix = ".safetensors" if args.source else ".pt"
    if library not in LIBRARIES:
        raise ConfigError(f"{library!r} is none of the libraries that are known: {', '.join(LIBRARIES)}")
    if args.out.suffix != suffix:
        raise ConfigError(f"{args.out}: the name must end in {suffix}")
    if args.out.exists():
        raise ConfigError(f"{args.out}: exists; give another name, or remove it first")
    given = {name: value for name in OF_SOURCE if (value := getattr(args, name)) is not None}
    if args.target:
        if given:
            words = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigError(f"{words}: only with --from; a state dict for MONAI holds nothing but weights")
        print(f"{args.out}: a state dict for {export_monai(Path(file), args.out)}")
        return 0
    if "mode" in given and not ("modalities" in given and "dataset" in given):
        raise ConfigError("--mode says what the outputs are of a file to segment with: give --modalities and --dataset")
    network = import_monai(Path(file), args.out, **given)
    size = " x ".join(map(str, network.img_size))
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    print(f"{args.out}: UNETR, {network.in_channels} to {network.out_channels} channels, {size}, {millions:.2f} M")
    if network.norm == "instance_affine":
        print(
            "norm: instance_affine is assumed; a network trained with group norm has the same tensors and would "
            "compute something else"
        )
    return 0

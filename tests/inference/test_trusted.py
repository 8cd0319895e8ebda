"""A stranger's file names code: none of it is imported, run or fetched, and no network larger than its file is made."""

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import raum_lightning
from raum_lightning import SegmentationModule
from raum_lightning.cli import main
from raum_lightning.errors import CheckpointError, ConfigError
from raum_lightning.inference.confined import confined
from raum_lightning.inference.trusted import INSTANTIATOR, build, check, check_shapes
from tests.helpers.handmade import CARD

UNETR = "raum_lightning.models.UNETR"
SIZES = {"img_size": [16, 16, 16], "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_dim": 16}
SPEC = {"class_path": UNETR, "init_args": {**SIZES, "out_indices": [1, 2], "feature_size": 2}}
EVIL = """
from pathlib import Path
from torch import nn
(Path(__file__).parent / "imported").touch()
class Evil(nn.Module):
    def __init__(self, **unused):
        (Path(__file__).parent / "ran").touch()
        super().__init__()
    @classmethod
    def load(cls, **unused):
        return cls()
def make(**unused):
    return Evil()
"""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with a module `planted_evil` that leaves a file when it is imported, and when it runs."""
    (tmp_path / "planted_evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "planted_evil", raising=False)
    return tmp_path


def write_checkpoint(path: Path, network: Any, **hyper_parameters: Any) -> Path:
    """A checkpoint that passes `weights_only`, its checksum and `verify`."""
    weights = {f"network.{name}": weight for name, weight in build(SPEC).state_dict().items()}
    hyper_parameters = {"network": network, "_instantiator": INSTANTIATOR, "roi_size": [16, 16, 16], **hyper_parameters}
    content = {"state_dict": weights, "hyper_parameters": hyper_parameters, "model_card": CARD.to_plain()}
    torch.save({**content, "pytorch-lightning_version": "2.6.6", "global_step": 1}, path)
    return path


def of_class(path: Any, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


HOSTILE: dict[str, Any] = {
    "a class": of_class("planted_evil.Evil"),
    "a function": of_class("planted_evil.make"),
    "a classmethod": of_class("planted_evil.Evil.load"),
    "a builtin": of_class("builtins.exec", source="import planted_evil"),
    "eval": of_class("builtins.eval"),
    "a shell": of_class("os.system", command="touch ran"),
    "a process": of_class("subprocess.Popen", args=["touch", "ran"]),
    "an import": of_class("importlib.import_module", name="planted_evil"),
    "runpy": of_class("runpy.run_path", path_name="planted_evil.py"),
    "another checkpoint": of_class(
        "raum_lightning.SegmentationModule.load_from_checkpoint", checkpoint_path="evil.ckpt", weights_only=False
    ),
    "a checkpoint of Lightning": of_class(
        "lightning.pytorch.LightningModule.load_from_checkpoint", checkpoint_path="http://evil/e", weights_only=False
    ),
    "unflatten": of_class("torch.export.unflatten", module="planted_evil"),
    "a torch.load": of_class("torch.load", f="evil.pt", weights_only=False),
    "a hub": of_class("torch.hub.load", repo_or_dir="evil/evil", model="evil"),
    "a jit archive": of_class("torch.jit.load", f="evil.pt"),
    "a lazy module": of_class("torch.nn.LazyLinear", out_features=1),
    "through a re-export": of_class("raum_lightning.models.unetr.torch.hub.load", repo_or_dir="evil/evil"),
    "a re-exported module": of_class("raum_lightning.models.unetr.nn.Sequential"),
    "a class of torch that a trusted module imports": of_class("monai.networks.nets.vit.Sequence"),
    "a function that makes networks": of_class("monai.networks.nets.resnet50"),
    "a function of ours": of_class("raum_lightning.models.monai.convert"),
    "a name that only begins as ours": of_class("raum_lightning.models_evil.Evil"),
    "a name like ours in other letters": of_class("raum_lightning.mod\u0435ls.UNETR"),
    "a dunder": of_class("raum_lightning.models.__builtins__.exec"),
    "a relative name": of_class("..planted_evil.Evil"),
    "a path": of_class("/tmp/planted_evil.Evil"),
    "spaces": of_class(" planted_evil.Evil"),
    "a newline": of_class(f"{UNETR}\nplanted_evil.Evil"),
    "no name": of_class("UNETR"),
    "no text": of_class(7),
    "a list": [of_class("planted_evil.Evil")],
    "text": "planted_evil.Evil",
    "nothing": {},
    "null": None,
    "nested": of_class("monai.networks.nets.DiNTS", dints_space=of_class("planted_evil.Evil")),
    "nested in a list": of_class(UNETR, img_size=[of_class("planted_evil.Evil")]),
    "nested deeper": of_class(UNETR, norm={"a": {"b": [{"c": of_class("planted_evil.make")}]}}),
    "without end": of_class(UNETR, norm=[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]),
    "dict_kwargs": {**SPEC, "dict_kwargs": {"norm": "batch"}},
    "nested dict_kwargs": of_class(UNETR, norm={"dict_kwargs": {}}),
    "another key": {**SPEC, "args": []},
    "arguments that are a list": {"class_path": UNETR, "init_args": [1]},
    "an address": of_class(UNETR, norm="https://evil/weights"),
    "pretrained": of_class("monai.networks.nets.DenseNet121", spatial_dims=2, pretrained=True),
    "pretrained by default": of_class("monai.networks.nets.EfficientNetBN", model_name="efficientnet-b0"),
    "pretrained by default, from a hub": of_class("monai.networks.nets.ResNetFeatures", model_name="resnet10"),
    "a file of weights": of_class("monai.networks.nets.CellSamWrapper", checkpoint="evil.pth"),
    "an argument that is a tensor": of_class(UNETR, depth=torch.zeros(2)),
    "an argument that there is not": of_class(UNETR, nothing=1),
    "an argument of another kind": of_class(UNETR, depth="many"),
    "a class of ours that is no network": of_class("raum_lightning.models.unetr.Sequence"),
    "a class that there is not": of_class("raum_lightning.models.Nothing"),
    "a module that there is not": of_class("raum_lightning.models.nothing.Nothing"),
}


@pytest.mark.slow
@pytest.mark.parametrize("network", HOSTILE.values(), ids=HOSTILE)
def test_no_code_of_a_file_is_imported_or_run(planted: Path, network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(planted)
    monkeypatch.setattr("socket.socket.connect", lambda *unused: pytest.fail("a connection"))
    path = write_checkpoint(planted / "hostile.ckpt", network)
    with pytest.raises(CheckpointError, match=r"hostile\.ckpt: ") as raised:
        raum_lightning.load(path)
    assert "\n" not in str(raised.value)
    if network is not None:  # which stands for an argument that is not there
        with pytest.raises(CheckpointError, match=r"hostile\.ckpt: "):
            SegmentationModule.load_from_checkpoint(path)
    with pytest.raises(CheckpointError):
        SegmentationModule.load_from_checkpoint(write_checkpoint(path, SPEC, loss=network or {}))
    assert not (planted / "imported").exists() and not (planted / "ran").exists()
    assert "planted_evil" not in sys.modules


@pytest.mark.parametrize(
    "hyper_parameters",
    [
        {"_instantiator": "planted_evil.make"},
        {"_instantiator": ["planted_evil.make"]},
        {"_class_path": "planted_evil.Evil"},
    ],
    ids=str,
)
def test_no_other_instantiator_is_called(planted: Path, hyper_parameters: dict[str, Any]) -> None:
    path = write_checkpoint(planted / "hostile.ckpt", SPEC, **hyper_parameters)
    for load in (raum_lightning.load, SegmentationModule.load_from_checkpoint):
        with pytest.raises(CheckpointError, match=r"hostile\.ckpt: _(instantiator|class_path) is"):
            load(path)
    assert not (planted / "imported").exists()


def test_every_command_refuses(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_checkpoint(planted / "hostile.ckpt", HOSTILE["a class"])
    weights = {name: weight.contiguous() for name, weight in build(SPEC).state_dict().items()}
    metadata = {"model_card": CARD.to_json(), "network": '{"class_path": "planted_evil.Evil"}'}
    save_file(weights, planted / "hostile.safetensors", metadata)
    assert main(["phantom", str(planted / "cases"), "--cases", "1", "--shape", "32", "32", "32"]) == 0
    case = ["--case", str(next((planted / "cases").iterdir())), "--out", str(planted / "mask.nii.gz")]
    for words in (
        ["export", "--checkpoint", str(path), "--out", str(planted / "model.onnx")],
        ["segment", "--checkpoint", str(path), *case],
        ["segment", "--checkpoint", str(planted / "hostile.safetensors"), *case],
    ):
        assert main(words) == 2
        assert "network is planted_evil.Evil, which is not among" in capsys.readouterr().err
    assert not (planted / "imported").exists()


def test_what_the_user_trusts_is_made(planted: Path) -> None:
    assert type(build(HOSTILE["a class"], ["planted_evil"])).__name__ == "Evil"
    for name in ("a function", "a classmethod"):
        with pytest.raises(CheckpointError):
            build(HOSTILE[name], ["planted_evil"])
    with pytest.raises(ConfigError, match="is not the name of a module"):
        build(SPEC, ["planted evil"])


def test_trust_in_one_module_is_none_in_what_it_imports(planted: Path) -> None:
    (planted / "planted_other.py").write_text("from torch.nn import Conv3d")
    with pytest.raises(CheckpointError, match=r"Conv3d, which torch\.nn\.modules\.conv defines: that is not trusted"):
        build(of_class("planted_other.Conv3d"), ["planted_other"])


def test_arguments_come_as_the_command_line_gave_them() -> None:
    network = build(SPEC)
    assert isinstance(network, raum_lightning.UNETR) and network.img_size == (16, 16, 16)
    nested = of_class("torch.nn.Sequential")
    with pytest.raises(CheckpointError):
        check(nested)
    assert isinstance(build(nested, ["torch.nn"]), nn.Sequential)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"embed_dim": 12_000, "mlp_dim": 48_000}, "asks for more than its weights hold"),
        ({"depth": 60_000, "out_indices": [1, 60_000]}, "asks for more than its weights hold"),
        ({"depth": 10**6, "out_indices": [1, 10**6]}, "depth=1000000 must be a whole number from 1 to 65,536"),
        ({"depth": 10**9, "out_indices": [1, 10**9]}, "depth is 1000000000, larger than any argument"),
        ({"out_indices": list(range(20_000))}, "network has more than 10000 arguments"),
        ({"feature_size": 4}, "its weights are not those of its network"),
        ({"depth": 3, "out_indices": [1, 3]}, "its weights are not those of its network"),
    ],
)
def test_a_network_of_other_shapes_is_refused_before_it_is_made(arguments: dict[str, Any], said: str) -> None:
    weights = build(SPEC).state_dict()
    with pytest.raises(CheckpointError, match=said):
        check_shapes(of_class(UNETR, **{**SPEC["init_args"], **arguments}), weights)  # type: ignore[dict-item]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SwinUNETR", "SegResNet", "BasicUNet", "UNETR"])
def test_networks_of_monai_can_be_sketched(name: str) -> None:
    size = {"img_size": [32, 32, 32], "hidden_size": 24, "num_heads": 2, "mlp_dim": 48} if name == "UNETR" else {}
    spec = of_class(f"monai.networks.nets.{name}", in_channels=3, out_channels=4, **size)
    check_shapes(spec, build(spec).state_dict())


def test_a_table_that_small_arguments_make_large_costs_no_memory() -> None:
    spec = of_class("monai.networks.nets.SwinUNETR", in_channels=3, out_channels=4, feature_size=12, window_size=30)
    with pytest.raises(CheckpointError):  # its positions relative to one another alone take 17 GB
        check_shapes(spec, build(SPEC).state_dict())


@pytest.mark.parametrize(
    "tried",
    [
        lambda folder: (folder / "there").read_text(),
        lambda folder: (folder / "new").write_text("x"),
        lambda folder: (folder / "there").unlink(),
        lambda folder: (folder / "there").rename(folder / "new"),
        lambda folder: (folder / "new").mkdir(),
        lambda folder: torch.load(folder / "there"),
        lambda folder: subprocess.run([sys.executable, "-c", ""], check=True),
        lambda folder: os.system("true"),
        lambda folder: socket.create_connection(("127.0.0.1", 9)),
        lambda folder: urllib.request.urlopen("http://127.0.0.1:9/weights"),
    ],
)
def test_a_constructor_does_nothing_but_make_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Callable[[Path], Any]
) -> None:
    (tmp_path / "there").write_text("x")

    def constructor(self: nn.Module) -> None:
        nn.Module.__init__(self)
        tried(tmp_path)

    monkeypatch.setattr("monai.networks.nets.BasicUNet.__init__", constructor)
    with pytest.raises(CheckpointError, match=r"cannot be made from its arguments \(.*it tries "):
        build(of_class("monai.networks.nets.BasicUNet"))
    assert (tmp_path / "there").exists() and not (tmp_path / "new").exists()
    with confined():
        assert Path(torch.__file__).read_text()  # libraries may be read
    assert (tmp_path / "there").read_text() == "x"


def test_weights_that_repeat_few_numbers_are_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "large.ckpt", SPEC)
    content = torch.load(path, weights_only=True)
    content["state_dict"]["network.bomb"] = torch.zeros(1).expand(10**12)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"large\.ckpt: holds weights that are larger than the file"):
        raum_lightning.load(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [{"roi_size": -1}, {"overlap": "a"}, {"betas": 5}, {"flips": [2]}, {"metrics": 5}],
    ids=str,
)
def test_arguments_of_no_module_are_one_sentence(tmp_path: Path, given: dict[str, Any]) -> None:
    path = write_checkpoint(tmp_path / "odd.ckpt", SPEC, **given)
    with pytest.raises(CheckpointError, match=r"odd\.ckpt: no module can be made of it \("):
        SegmentationModule.load_from_checkpoint(path)


def test_files_that_a_checkpoint_names_are_not_read(tmp_path: Path) -> None:
    named = {"postprocess": "/etc/hostname", "init_from": "/etc/hostname"}
    module = SegmentationModule.load_from_checkpoint(write_checkpoint(tmp_path / "a.ckpt", SPEC, **named))
    assert module.postprocess is None and module.init_from is None


@pytest.mark.slow
def test_a_file_with_a_network_of_11_gb_costs_no_memory(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "large.ckpt", of_class(UNETR, embed_dim=12_000, mlp_dim=48_000))
    script = (
        "import resource, sys, raum_lightning\n"
        "try: raum_lightning.load(sys.argv[1])\n"
        "except ValueError as error: print(error)\n"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2_000_000\n"
    )
    process = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "asks for more than its weights hold" in process.stdout


@pytest.mark.slow
def test_what_torch_imports_with_the_first_network_of_a_process_is_not_the_files_doing() -> None:
    """It looks for a folder for temporary files, by writing one."""
    code = (
        "from raum_lightning.inference.confined import confined\n"
        "with confined():\n    import torch._dynamo\n    torch.nn.Linear(2, 2)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

"""Starting from other weights: each kind of file, what is adapted, what stays new, and what is refused."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks import nets
from safetensors.torch import save_file

from raum_lightning.cli import main
from raum_lightning.datasets import load
from raum_lightning.errors import CheckpointError, ConfigError
from raum_lightning.inference.card import ModelCard, describe
from raum_lightning.inference.converters import Renamed
from raum_lightning.inference.weights import Weights, lines, source_of, start_from
from raum_lightning.models import UNETR, UNETRV2
from raum_lightning.models.monai import OUT_INDICES
from raum_lightning.module import SegmentationModule
from tests.helpers import DEBUG
from tests.helpers.networks import small

THREE = ("flair", "t1ce", "t2")
FOUR, FIVE = load("brats2020").classes, load("brats2024").classes
# the depth and patch size that MONAI's has
LIKE_MONAI: dict[str, Any] = {"embed_dim": 24, "mlp_dim": 48, "num_heads": 2, "out_indices": OUT_INDICES}


def checkpoint(path: Path, network: torch.nn.Module, modalities: Sequence[str] = THREE, size: int = 16) -> Path:
    """What `raum fit` saves, as far as weights are concerned."""
    card = ModelCard(
        modalities=tuple(modalities),
        **describe(load("brats2020")),
        orientation="LPS",
        spacing=(1.0, 1.0, 1.0),
        mode="labels",
        roi_size=(size, size, size),
    )
    state = {f"network.{name}": weight for name, weight in network.state_dict().items()}
    torch.save({"state_dict": state, "model_card": card.to_plain()}, path)
    return path


def test_other_modalities_classes_and_size_at_once(tmp_path: Path) -> None:
    source, target = small(), small(in_channels=2, out_channels=5, img_size=24)
    head = target.head.weight.clone()
    path = checkpoint(tmp_path / "last.ckpt", source)
    table, weights = start_from(path, target, modalities=("t1ce", "t1"), outputs=FIVE)
    before, after = (network.state_dict()["skips.0.conv1.weight"] for network in (source, target))
    torch.testing.assert_close(after, torch.stack([before[:, 1], before.mean(dim=1)], dim=1))
    assert target.vit.pos_embed.shape[1] == 27
    torch.testing.assert_close(target.vit.pos_embed[0, 0], source.vit.pos_embed[0, 0], rtol=0, atol=0.05)
    assert torch.equal(target.head.weight, head)
    assert torch.equal(target.vit.norm.weight, source.vit.norm.weight)
    assert table.new == table.left_over == ["head.weight", "head.bias"]
    assert lines(path, table, weights)[1:] == [
        f"  taken      {len(source.state_dict()) - 6} tensors",
        "  adapted    4: vit.pos_embed, vit.patch_embed.weight, skips.0.conv1.weight, skips.0.shortcut.0.weight",
        "  new        2: head.weight, head.bias",
        "  left over  2: head.weight, head.bias",
        "  it does not say which cases trained it: scores on these would be too high",
    ]


@pytest.mark.parametrize(("outputs", "taken"), [(FOUR, True), (("background", "one", "two", "three"), False)])
def test_a_head_of_other_classes_is_dropped_though_it_has_as_many(
    tmp_path: Path, outputs: tuple[str, ...], taken: bool
) -> None:
    source, target = small(), small()
    torch.nn.init.ones_(source.head.weight)
    start_from(checkpoint(tmp_path / "last.ckpt", source), target, modalities=THREE, outputs=outputs)
    assert bool((target.head.weight == 1).all()) is taken


@pytest.mark.slow
@pytest.mark.parametrize("wrapped", [False, True])
def test_monais_unetr_gives_its_logits(tmp_path: Path, wrapped: bool) -> None:
    theirs = nets.UNETR(1, 2, 32, feature_size=4, hidden_size=24, mlp_dim=48, num_heads=2).eval()
    state = theirs.state_dict()
    path = tmp_path / "unetr.pt"
    torch.save({"state_dict": {f"module.{name}": weight for name, weight in state.items()}} if wrapped else state, path)
    ours = UNETR(in_channels=1, out_channels=2, img_size=32, feature_size=4, **LIKE_MONAI).eval()
    table, _ = start_from(path, ours, modalities=("flair",), outputs=("a", "b"))
    image = torch.randn(1, 1, 32, 32, 32)
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-4, atol=1e-4)
    assert not table.new


@pytest.mark.slow
def test_monais_vit_alone_becomes_the_encoder_of_three_modalities(tmp_path: Path) -> None:
    sizes = {"hidden_size": 24, "mlp_dim": 48, "num_layers": 12, "num_heads": 2}
    theirs = nets.ViT(1, (32,) * 3, (16,) * 3, classification=True, **sizes)
    torch.save(theirs.state_dict(), tmp_path / "vit.pt")
    ours = UNETR(in_channels=3, out_channels=4, img_size=32, feature_size=4, **LIKE_MONAI)
    table, _ = start_from(tmp_path / "vit.pt", ours, modalities=THREE, outputs=FOUR)
    assert not [name for name in table.new if name.startswith("vit.")]
    assert {"cls_token", "classification_head.0.weight"} <= set(table.left_over)
    kernel = theirs.state_dict()["patch_embedding.patch_embeddings.weight"].flatten(1)
    torch.testing.assert_close(ours.vit.patch_embed.weight, kernel.repeat(1, 3))


def vit(patch: int = 16, **more: Any) -> dict[str, torch.Tensor]:
    """State dict of MONAI's ViT for one modality."""
    sizes = {"hidden_size": 24, "mlp_dim": 48, "num_layers": 4, "num_heads": 2}
    state: dict[str, torch.Tensor] = nets.ViT(1, (32,) * 3, (patch,) * 3, **(sizes | more)).state_dict()
    return state


@pytest.mark.parametrize("patch", [8, 16])
def test_an_embedding_of_patches_of_another_size_is_new(tmp_path: Path, patch: int) -> None:
    torch.save(vit(patch), tmp_path / "vit.pt")
    sizes = {"embed_dim": 24, "mlp_dim": 48, "num_heads": 2, "depth": 4, "out_indices": (1, 2, 4)}
    network = UNETRV2(in_channels=3, out_channels=4, img_size=32, feature_size=4, patch_size=8, **sizes)
    own = network.vit.patch_embed.weight.clone()
    table, _ = start_from(tmp_path / "vit.pt", network, modalities=THREE, outputs=FOUR)
    fits = patch == 8
    assert ("vit.patch_embed.weight" in table.adapted) is fits
    assert ("vit.patch_embed.weight" in table.left_over) is not fits and "vit.blocks.0.norm1.weight" in table.taken
    assert torch.equal(network.vit.patch_embed.weight, own) is not fits


def test_weights_behind_a_convolutional_stem_go_to_a_linear_one(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"embed_dim": 24, "mlp_dim": 48, "num_heads": 2, "img_size": 32, "feature_size": 4}
    sizes |= {"depth": 4, "out_indices": (1, 2, 3, 4)}
    source = UNETRV2(in_channels=3, out_channels=4, stem="conv", skips="stem", stem_size=4, **sizes)
    target = UNETRV2(in_channels=2, out_channels=4, **sizes)
    path = checkpoint(tmp_path / "last.ckpt", source, size=32)
    table, _ = start_from(path, target, modalities=("t1ce", "flair"), outputs=FOUR)
    assert "vit.patch_embed.weight" in table.new and "vit.blocks.0.norm1.weight" in table.taken


def test_what_old_releases_and_wrappers_add_to_a_state_dict(tmp_path: Path) -> None:
    state = vit() | {"patch_embedding.cls_token": torch.zeros(1, 1, 24), "blocks.0.other.weight": torch.zeros(2)}
    tables = []
    for prefix in ("", "model.", "_orig_mod.", "module._orig_mod."):
        torch.save({f"{prefix}{name}": weight for name, weight in state.items()}, tmp_path / "vit.pt")
        network = small(
            img_size=32, embed_dim=24, mlp_dim=48, num_heads=2, depth=4, patch_size=16, out_indices=(1, 2, 3, 4)
        )
        tables.append(start_from(tmp_path / "vit.pt", network, modalities=THREE, outputs=FOUR)[0])
    assert tables[0].left_over == ["vit.blocks.0.other.weight"] and len(tables[0].taken) > 40
    assert all(table == tables[0] for table in tables)


@pytest.mark.parametrize(
    ("name", "weight", "said"),
    [
        ("norm.weight", torch.full((24,), torch.nan), "its weight vit.norm.weight holds NaN or infinite values"),
        ("norm.weight", torch.ones(24, dtype=torch.int8), "its weight vit.norm.weight is of torch.int8"),
        ("patch_embedding.position_embeddings", torch.zeros(24), "its tensors are not those of a network"),
        ("patch_embedding.position_embeddings", torch.zeros(1, 0, 24), "its tensors are not those of a network"),
        ("patch_embedding.patch_embeddings.weight", torch.tensor(1.0), ""),
        ("patch_embedding.patch_embeddings.weight", None, ""),
    ],
)
def test_damaged_weights_are_one_sentence(tmp_path: Path, name: str, weight: torch.Tensor | None, said: str) -> None:
    state = vit() | {name: weight}
    torch.save({key: one for key, one in state.items() if one is not None}, tmp_path / "vit.pt")
    network = small(
        img_size=32, embed_dim=24, mlp_dim=48, num_heads=2, depth=4, patch_size=16, out_indices=(1, 2, 3, 4)
    )
    if said:
        with pytest.raises(ConfigError, match=said):
            start_from(tmp_path / "vit.pt", network, modalities=THREE, outputs=FOUR)
    else:
        table, _ = start_from(tmp_path / "vit.pt", network, modalities=THREE, outputs=FOUR)
        assert "vit.patch_embed.weight" in table.new and "vit.norm.weight" in table.taken


def test_a_network_of_another_library_takes_tensors_by_name(tmp_path: Path) -> None:
    source, target = (nets.SegResNet(init_filters=8, in_channels=2, out_channels=n) for n in (2, 4))
    save_file(source.state_dict(), tmp_path / "segresnet.safetensors")
    table, _ = start_from(tmp_path / "segresnet.safetensors", target, modalities=("flair", "t2"), outputs=FOUR)
    assert set(table.new) == set(table.left_over) == {"conv_final.2.conv.weight", "conv_final.2.conv.bias"}
    name = "convInit.conv.weight"
    assert torch.equal(target.state_dict()[name], source.state_dict()[name])


def test_a_network_of_another_library_is_not_adapted(tmp_path: Path) -> None:
    source, target = (nets.SegResNet(init_filters=8, in_channels=3, out_channels=4) for _ in range(2))
    path = checkpoint(tmp_path / "last.ckpt", source)
    with pytest.raises(ConfigError, match=r"was trained on flair, t1ce, t2, in this order, .*'\[flair, t1ce, t2\]'"):
        start_from(path, target, modalities=("t2", "flair", "t1ce"), outputs=FOUR)
    table, _ = start_from(path, target, modalities=THREE, outputs=("background", "one", "two", "three"))
    assert set(table.new) == set(table.left_over) == {"conv_final.2.conv.weight", "conv_final.2.conv.bias"}


def test_positions_of_an_image_that_is_no_cube(tmp_path: Path) -> None:
    """Which has as many patches as a cube of 32^3, along other axes."""
    source, target = (small(img_size=(64, 32, 16)) for _ in range(2))
    torch.nn.init.normal_(source.vit.pos_embed)
    torch.save(source.state_dict(), tmp_path / "plain.pt")
    start_from(tmp_path / "plain.pt", target, modalities=THREE, outputs=FOUR)
    assert torch.equal(target.vit.pos_embed, source.vit.pos_embed)
    with pytest.raises(ConfigError, match=r"32 positions are not those of a cube: .*`raum import --img-size`"):
        torch.save(small(img_size=(32, 32, 16)).state_dict(), tmp_path / "plain.pt")
        start_from(tmp_path / "plain.pt", target, modalities=THREE, outputs=FOUR)
    description = json.dumps({"class_path": "raum_lightning.models.UNETR", "init_args": {"img_size": [32, 32, 16]}})
    save_file(small(img_size=(32, 32, 16)).state_dict(), tmp_path / "sized.safetensors", {"network": description})
    table, _ = start_from(tmp_path / "sized.safetensors", target, modalities=THREE, outputs=FOUR)
    assert table.adapted == ["vit.pos_embed"]


def test_what_cannot_be_started_from(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1)}, tmp_path / "other.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    torch.save({"weight": Path}, tmp_path / "code.pt")
    (tmp_path / "torn.safetensors").write_bytes(b"\x08\0\0\0")
    said = {
        "other.pt": (ConfigError, r"module\.init_from=\S+other\.pt: none of the 1 tensors fits"),
        "none.pt": (CheckpointError, "holds no state dict"),
        "code.pt": (CheckpointError, r"code\.pt: is damaged or not a checkpoint"),
        "torn.safetensors": (CheckpointError, "safetensors cannot read it"),
        "absent.safetensors": (CheckpointError, "no such file"),
        "absent.pt": (CheckpointError, "no such checkpoint"),
    }
    for name, (kind, sentence) in said.items():
        with pytest.raises(kind, match=sentence):
            start_from(tmp_path / name, small(), modalities=THREE, outputs=FOUR)


LAB = """
import torch
from raum_lightning.inference.converters import Converter, Weights
class OfOurLab(Converter):
    def __init__(self, path: str, returns: bool = True):
        self.path, self.returns = path, returns
    def read(self) -> Weights:
        state = torch.load(self.path, weights_only=True)
        state = {name.replace("enc.", "vit."): weight for name, weight in state.items()}
        return Weights(state, modalities=["flair", "t1ce", "t2"], trained=["Case_1"]) if self.returns else state
"""


def of_a_lab(path: Path, network: torch.nn.Module) -> Path:
    """A state dict by other names."""
    torch.save({name.replace("vit.", "enc."): weight for name, weight in network.state_dict().items()}, path)
    return path


def test_tensors_by_other_names(tmp_path: Path) -> None:
    source, path = small(in_channels=2), of_a_lab(tmp_path / "lab.pth", small(in_channels=2))
    source.load_state_dict(Renamed(path, {r"^enc\.": "vit."}).read().tensors)
    target = small()
    renamed = Renamed(path, {r"^(e)nc": r"\1it", "^eit": "vit"}, modalities=["t2", "flair"])
    table, weights = start_from(renamed, target, modalities=THREE, outputs=FOUR)
    assert (weights.modalities, weights.seen("brats2020"), table.new, table.left_over) == (
        ["t2", "flair"], frozenset(), [], [],
    )  # fmt: skip
    before, after = (network.state_dict()["skips.0.conv1.weight"] for network in (source, target))
    torch.testing.assert_close(after, torch.stack([before[:, 1], before.mean(dim=1), before[:, 0]], dim=1))
    assert torch.equal(target.vit.norm.weight, source.vit.norm.weight)
    for names, said in (
        ({r"\.weight$": "", r"\.bias$": ""}, "names: [a-z0-9_.]+ would be the name of two tensors, one of them"),
        ({"^skips.9": "x"}, r"names: \^skips\.9 changes no name of a tensor, such as enc\.pos_embed"),
        ({"(": "x"}, r"names: \(: x cannot be used \(missing \)"),
        ({"^enc": r"\2"}, r"names: \^enc: \\2 cannot be used \(invalid group"),
    ):
        with pytest.raises(ConfigError, match=rf"module\.init_from=\S+lab\.pth: {said}"):
            start_from(Renamed(path, names), target, modalities=THREE, outputs=FOUR)
    with pytest.raises(ConfigError, match="sees 2 channels, and the modalities are flair, t1ce, t2"):
        start_from(Renamed(path, {"^enc": "vit"}, modalities=THREE), target, modalities=THREE, outputs=FOUR)
    with pytest.raises(
        ConfigError, match=r"=lab\.Mine: no such file; a class is given as {class_path: lab\.Mine, init_a"
    ):
        source_of("lab.Mine")
    # neither an address nor a folder's name makes a class of it, and a program may give a path
    for given in ("hf://org/model.v2", "runs/lab.Mine", Path("last.ckpt")):
        assert source_of(given) == Path(given)


@pytest.mark.slow
def test_a_run_starts_from_what_a_class_of_ones_own_reads(
    brats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab_of_tests.py").write_text(LAB)
    words = ["-c", DEBUG, "--data.root", str(brats), "--trainer.logger", "false", "--trainer.limit_val_batches", "0"]
    words += ["--trainer.max_steps", "1", "--module.init_from", "lab_of_tests.OfOurLab"]
    assert main(["fit", *words]) == 2
    said = (
        "module.init_from=lab_of_tests.OfOurLab: no such file; a class is given as {class_path: lab_of_tests.OfOurLab"
    )
    assert said in capfd.readouterr().err
    spec = f'--module.init_from={{"class_path": "{words[-1]}", "init_args": {{"paht": "lab.pth"}}}}'
    assert main(["fit", *words[:-2], spec]) == 2
    assert '"paht": "lab.pth"}}: does not fit its class; in a YAML file it is said in what' in capfd.readouterr().err
    words += ["--module.init_from.path", "lab.pth"]
    assert main(["fit", *words]) == 2
    assert "error: module.init_from=OfOurLab: lab.pth: No such file or directory" in capfd.readouterr().err
    # the name of a file is that of no class, whose module would be imported
    Path("start_of_tests.py").write_text("raise SystemExit(3)")
    torch.save({"x": torch.ones(1)}, "start_of_tests.pth")
    assert main(["fit", *words[:-4], "--module.init_from", "start_of_tests.pth"]) == 2
    assert "none of the 1 tensors fits" in capfd.readouterr().err
    assert main(["fit", *words[:-4], "--run.id", "a"]) == 0
    state = torch.load("runs/debug/a/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    torch.save({name.removeprefix("network.").replace("vit.", "enc."): one for name, one in state.items()}, "lab.pth")
    assert main(["fit", *words, "--module.init_from.returns", "false"]) == 2
    assert "module.init_from=OfOurLab: OfOurLab.read must return Weights" in capfd.readouterr().err
    assert main(["fit", *words, "--run.id", "b"]) == 0
    assert "init_from OfOurLab" in caplog.text and "new        0" in caplog.text
    content = torch.load("runs/debug/b/checkpoints/last.ckpt", weights_only=True)
    assert "Case_1" in content["trained"]
    # neither the class nor the file is needed again
    (tmp_path / "lab_of_tests.py").unlink()
    del sys.modules["lab_of_tests"]
    assert main(["predict", "-c", "runs/debug/b/config.yaml", "--trainer.logger", "false"]) == 0
    assert type(SegmentationModule.load_from_checkpoint("runs/debug/b/checkpoints/last.ckpt").network) is UNETR


def test_cases_are_known_by_their_ids_in_other_editions() -> None:
    weights = Weights({}, dataset="brats2018", trained=["Brats18_2013_3_1", "case_1"])
    assert weights.seen("brats2018") == {"Brats18_2013_3_1", "case_1"}
    assert weights.seen("brats2020") == {"Brats18_2013_3_1"}
    assert Weights({}, trained=["case_1"]).seen("brats2020") == {"case_1"}


@pytest.mark.slow
def test_a_run_starts_from_a_file_and_resumes_without_it(
    brats: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["-c", DEBUG, "--data.root", str(brats), "--trainer.logger", "false", "--trainer.limit_val_batches", "0"]
    assert main(["fit", *words, "--run.id", "a", "--trainer.max_steps", "1"]) == 0
    words += ["--run.id", "b", "--module.init_from", "start.ckpt", "--module.freeze", "[vit]"]
    assert main(["fit", *words, "--trainer.max_steps", "1"]) == 2
    assert "error: start.ckpt: no such checkpoint" in capfd.readouterr().err
    Path("runs/debug/a/checkpoints/last.ckpt").rename("start.ckpt")
    before = torch.load("start.ckpt", weights_only=True)["state_dict"]
    assert main(["fit", *words, "--trainer.max_steps", "1"]) == 0
    assert f"taken      {len(before)} tensors" in caplog.text and "frozen: vit, 0." in caplog.text
    assert main(["fit", *words, "--run.id", "c", "--trainer.max_steps", "1", "--data.fold", "1"]) == 2
    assert re.search(
        r"cases to be scored were used to train module.init_from=start.ckpt \(BraTS20", capfd.readouterr().err
    )
    Path("start.ckpt").unlink()
    assert main(["fit", *words, "--trainer.max_steps", "2", "--ckpt_path", "auto"]) == 0
    after = torch.load("runs/debug/b/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for name, weight in before.items():
        assert torch.equal(after[name], weight) is name.startswith("network.vit."), name

"""What files and options say is what the run gets: bases, replaced classes and lists, the order of words."""

import importlib
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from raum_lightning import yaml_files
from raum_lightning.cli import TRAINER_VERBS, main
from raum_lightning.cli.command_line import read_command_line
from raum_lightning.cli.config_inheritance import merge, read_files
from raum_lightning.cli.known_keys import check_keys, known_keys, leaves
from raum_lightning.cli.trainer import RaumCLI
from raum_lightning.data.augment.one_of import INSTANTIATORS
from raum_lightning.data.datamodule import BratsDataModule
from raum_lightning.errors import ConfigError, RunError
from raum_lightning.yaml_files import MAX_BYTES, parse_value, read_yaml, to_yaml
from tests.helpers import EXPERIMENTS

UNETR = str(EXPERIMENTS / "unetr.yaml")
# defaults of TorchIO 1.2 and of MONAI 1.6
AFFINE = {"scales": 0.1, "degrees": 10.0, "p": 1.0}
ELASTIC = {"num_control_points": 7, "max_displacement": 7.5, "p": 1.0}
BIAS = {"coefficients": 0.5, "order": 3, "p": 1.0}


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main(["fit", *words, "--print_config"])
    config: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return config


@pytest.mark.slow
def test_another_class_starts_from_its_own_defaults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(
        tmp_path / "other.yaml",
        f"""
base: {UNETR}
module:
  network: {{class_path: monai.networks.nets.SegResNet, init_args: {{in_channels: 3}}}}
  loss: {{class_path: torch.nn.CrossEntropyLoss}}
data:
  augmentation:
  - class_path: torchio.RandomAffine
  - class_path: torchio.RandomElasticDeformation
  - class_path: torchio.RandomBiasField
  - class_path: torchio.RandomFlip
trainer:
  logger: {{class_path: lightning.pytorch.loggers.TensorBoardLogger, init_args: {{save_dir: tb}}}}
  callbacks: [{{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {{monitor: val/loss}}}}]
""",
    )
    config = printed(capsys, "-c", file)
    network = config["module"]["network"]["init_args"]
    assert (network["norm"], network["init_filters"], network["out_channels"]) == (["GROUP", {"num_groups": 8}], 8, 4)
    assert "patch_size" not in network and "mode" not in config["module"]["loss"]["init_args"]
    for transform, defaults in zip(config["data"]["augmentation"], (AFFINE, ELASTIC, BIAS, {"p": 1.0}), strict=True):
        assert {key: transform["init_args"][key] for key in defaults} == defaults, transform["class_path"]
    assert config["trainer"]["logger"]["init_args"]["name"] == "lightning_logs"
    (stopping,) = config["trainer"]["callbacks"]
    assert stopping["init_args"]["patience"] == 3 and "every" not in stopping["init_args"]


@pytest.mark.slow
def test_another_class_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    swin = ["--module.network", "monai.networks.nets.SwinUNETR", "--module.network.in_channels", "3"]
    for before, after in ((swin, []), ([], swin)):
        config = printed(capsys, *before, "-c", UNETR, *after, "--module.network.out_channels", "4")
        network = config["module"]["network"]
        assert network["class_path"] == "monai.networks.nets.SwinUNETR"
        arguments = network["init_args"]
        assert (arguments["patch_size"], arguments["feature_size"], arguments["num_heads"]) == (2, 24, [3, 6, 12, 24])
        assert (arguments["in_channels"], arguments["out_channels"]) == (3, 4)
    words = ["--data.augmentation", "[{class_path: torchio.RandomNoise}]", "--trainer.logger", "TensorBoardLogger"]
    config = printed(capsys, "-c", UNETR, *words)
    assert [item["init_args"]["p"] for item in config["data"]["augmentation"]] == [1.0]
    # the same class keeps what the file gives it
    words = ["--module.network", "raum_lightning.models.UNETR", "--module.network.init_args.norm", "batch"]
    network = printed(capsys, "-c", UNETR, *words)["module"]["network"]["init_args"]
    assert (network["norm"], network["depth"]) == ("batch", 12)


def test_the_last_of_two_classes_takes_none_of_the_first_ones_arguments() -> None:
    words = ["--module.network", "a.A", "--module.network.depth", "3", "--module.lr", "1", "--module.network", "b.B"]
    assert read_command_line(words).words == ["--module.lr", "1", "--module.network", "b.B"]


@pytest.mark.slow
def test_what_is_typed_wins_wherever_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--data.root", "mine", "-c", UNETR], ["-c", UNETR, "--data.root=mine"]):
        assert printed(capsys, *words)["data"]["root"] == "mine"


def test_bases_come_first_and_once(tmp_path: Path) -> None:
    first, second = EXPERIMENTS / "debug.yaml", EXPERIMENTS / "unetr_regions.yaml"
    tree = read_files([first, second]).tree
    assert tree["trainer"]["max_steps"] == 4 and tree["module"]["network"]["init_args"]["embed_dim"] == 24
    assert tree["module"]["loss"]["init_args"]["mode"] == "regions" and "base" not in tree
    # a base of a later file is under it; one that comes after is over it
    steps = {"phantom.yaml": 600, "debug.yaml": 4}
    for files, wanted in ((list(steps), 4), (list(steps)[::-1], 600)):
        assert read_files([EXPERIMENTS / name for name in files]).tree["trainer"]["max_steps"] == wanted
    written(tmp_path / "a.yaml", "base: b.yaml")
    written(tmp_path / "b.yaml", f"base: ../{tmp_path.name}/a.yaml")
    with pytest.raises(RunError, match="inherits from itself by base"):
        read_files([tmp_path / "a.yaml"])


@pytest.mark.parametrize(
    ("text", "typed", "trainer"),
    [
        ("max_steps: 5", [], {"max_steps": 5}),
        ("max_epochs: 5", [], {"max_epochs": 5}),
        ("max_steps: 5", ["--trainer.max_epochs=7"], {"max_epochs": 7}),
        ("devices: 1", ["--trainer.max_steps", "7"], {"devices": 1, "max_steps": 7}),
        ("max_steps: 5, max_epochs: 6", [], {"max_steps": 5, "max_epochs": 6}),
        ("devices: 1", [], {"devices": 1, "max_epochs": 250}),
        # time alone says how long it is, or is a limit beside epochs
        ("max_steps: -1, max_time: '00:00:20:00'", ["--trainer.max_steps=7"], {"max_steps": 7}),
        (
            "max_steps: -1, max_time: '00:00:20:00'",
            ["--trainer.max_epochs=null", "--trainer.max_steps=-1"],
            {"max_time": "00:00:20:00", "max_epochs": None, "max_steps": -1},
        ),
        ("max_time: '00:00:20:00'", ["--trainer.max_steps=7"], {"max_time": "00:00:20:00", "max_steps": 7}),
    ],
)
def test_the_length_that_is_given_last_counts(
    text: str, typed: list[str], trainer: dict[str, int | str | None], tmp_path: Path
) -> None:
    base = written(tmp_path / "base.yaml", "trainer: {max_epochs: 250}")
    file = written(tmp_path / "file.yaml", f"base: {base}\ntrainer: {{{text}}}")
    tree, _ = read_command_line(["-c", file, *typed]).together()
    assert tree["trainer"] == trainer


@pytest.mark.parametrize(
    ("under", "over", "both"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3, "c": 2}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"class_path": "x.A", "init_args": {"p": 1}}, {"class_path": "x.B"}, {"class_path": "x.B"}),
        (
            {"class_path": "x.A", "init_args": {"p": 1}},
            {"class_path": "A", "init_args": {"q": 2}},
            {"class_path": "A", "init_args": {"p": 1, "q": 2}},
        ),
        (
            {"class_path": "monai.networks.nets.SegResNet", "init_args": {"p": 1}},
            {"class_path": "monai.networks.nets.segresnet.SegResNet"},
            {"class_path": "monai.networks.nets.segresnet.SegResNet", "init_args": {"p": 1}},
        ),
        ("x.A", {"init_args": {"p": 1}}, {"class_path": "x.A", "init_args": {"p": 1}}),
        ({"class_path": "x.A", "init_args": {"p": 1}}, "x.A", {"class_path": "x.A", "init_args": {"p": 1}}),
        ({"class_path": "x.A", "init_args": {"p": 1}}, "auto", "auto"),
        ({"class_path": "x.A", "init_args": {"p": 1}}, None, None),
    ],
)
def test_merging(under: Any, over: Any, both: Any) -> None:
    before = repr((under, over))
    assert merge(under, over) == both
    assert repr((under, over)) == before


@pytest.mark.slow
def test_what_is_printed_can_be_given_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-c", str(EXPERIMENTS / "debug.yaml"), "--trainer.callbacks+=EarlyStopping"]
    words += ["--trainer.callbacks.monitor", "val/loss"]
    config = printed(capsys, *words)
    assert len(config["trainer"]["callbacks"]) == 3
    file = written(tmp_path / "mine.yaml", yaml.safe_dump(config))
    assert printed(capsys, "-c", file) == config


def test_numbers_and_words_of_yaml(tmp_path: Path) -> None:
    text = (
        "{a: 1e-4, b: 010, c: 12:30, d: 2024-01-01, e: -1.5E+3, f: 0x1F, g: .5, h: 1_000, i: 3., j: .inf, k: 7, l: on}"
    )
    tree, places = read_yaml(Path(written(tmp_path / "a.yaml", text + "\n")))
    values = [1e-4, "010", "12:30", "2024-01-01", -1500.0, 31, 0.5, 1000, 3.0, float("inf"), 7, True]
    assert list(tree.values()) == values and [type(value) for value in tree.values()] == [type(v) for v in values]
    assert places[("a",)] == f"{tmp_path / 'a.yaml'}, line 1"
    assert parse_value("[flair, 1e-4]") == ["flair", 1e-4] and parse_value("a: b: c") == "a: b: c"


def test_merge_keys_and_lines(tmp_path: Path) -> None:
    text = "x: &x\n  lr: 1\n  folds: 2\ny:\n  <<: *x\n  folds: 3\nz: [*x, *x]\n"
    tree, places = read_yaml(Path(written(tmp_path / "a.yaml", text)))
    assert tree["y"] == {"lr": 1, "folds": 3} and tree["z"] == [tree["x"]] * 2
    assert [places[key].rsplit(" ", 1)[1] for key in (("x", "lr"), ("y", "folds"), ("z",))] == ["2", "6", "7"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("module:\n  lr: 1\n  overlap: 0\n  lr: 2\n", "has the key 'lr' twice, in lines 2 and 4; keep one of them"),
        (b"\xff".decode("latin1") + ": [", "is not valid YAML (line 1"),
        ("a: [1\nb: 2", "is not valid YAML (line 2: expected ',' or ']'"),
        ("a: !!python/object/apply:os.system [id]", "is not valid YAML (line 1: could not determine a constructor"),
        ("? [1]\n: 2", "line 1: a key must be a word or a number"),
        ("a: &a [*a]", "expands to more than"),
        ("a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
            f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
        ), "expands to more than 100000 values"),
        ("a: 1\n" + "#" * MAX_BYTES, "has more than 1048576 bytes"),
        ("- 1", "holds no keys"),
        ("base: [a.yaml]", "must be the name of one file"),
        ("base: none.yaml", "none.yaml: no such file, named as base by "),
    ],
    ids=lambda value: value[:20],
)  # fmt: skip
def test_files_that_cannot_be_used(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, RunError)) as raised:
        read_files([Path(written(tmp_path / "a.yaml", text))])
    assert said in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "words", "lines"),
    [
        (
            "module:\n  netwrok: 1\n  lr: 1\ndata: {lr: 2}\n",
            ["--trainer.max_step", "3"],
            [
                "FILE, line 2: module.netwrok is no key; did you mean module.network?",
                "FILE, line 4: data.lr is no key; did you mean module.lr?",
                "trainer.max_step is no key; did you mean trainer.max_steps?",
            ],
        ),
        (
            "data:\n  augmentation:\n  - class_path: torchio.RandomAffine\n    init_args:\n      scale: 0.1\n",
            ["--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_di", "tb"],
            [
                "FILE, line 5: data.augmentation[0].init_args.scale is no argument of RandomAffine; "
                "did you mean scales?",
                "trainer.logger.init_args.save_di is no argument of TensorBoardLogger; did you mean save_dir?",
            ],
        ),
        (
            "data:\n  batch_size: two\n",
            [],
            ["FILE, line 2: data.batch_size='two' must be a whole number"],
        ),
        (
            "module:\n  network:\n    init_args:\n      depth: 3.5\n",
            [],
            ["FILE, line 4: module.network.init_args.depth=3.5 must be a whole number"],
        ),
        ("module:\n  network:\n    init_args:\n", [],
         ["FILE, line 3: module.network.init_args has no keys; leave it out"]),
        (
            "module:\n  network:\n    class_path: monai.networks.nets.SegResNet\n    init_filters: 4\n",
            [],
            ["FILE, line 4: module.network.init_filters is no key of a class (class_path, init_args, dict_kwargs); an "
             "argument of the class stands below init_args"],
        ),
        (
            "",
            ["--module.network", "monai.networks.nets.SwinUNTR"],
            ["module.network: monai.networks.nets has no class SwinUNTR; did you mean SwinUNETR?"],
        ),
        ("", ["--trainer.logger", "lightning.pytorch.loggers.CometLogger"],
         ["trainer.logger: CometLogger: Requirement 'comet-ml>=3.44.4' not met. HINT: Try running `pip install -U "
          "'comet-ml>=3.44.4'`"]),
        ("", ["--trainer.logger", "CSVLogger"],
         ["trainer.logger: several classes are named CSVLogger: give one of "
          "lightning.pytorch.loggers.csv_logs.CSVLogger, "
          "raum_lightning.loggers.csv_file.CSVLogger"]),
        ("", ["--trainer.max_epochs", "many"], ["trainer.max_epochs='many' must be a whole number or null"]),
        ("", ["--trainer.logger", "raum_lightning.loggers.WandbLogger", "--trainer.logger.log_model", "all"],
         ["trainer.logger.init_args.log_model='all' must be best or null"]),
        ("", ["--trainer.logger", "raum_lightning.loggers.WandbLogger", "--trainer.logger.save_dir", "/etc/hostname/x"],
         ["trainer.logger: save_dir=/etc/hostname/x cannot be made (Not a directory)"]),
        ("", ["--trainer.logger", "raum_lightning.loggers.CSVLogger", "--trainer.logger.save_dir", "/etc/hostname/x"],
         ["/etc/hostname/x/metrics.csv: /etc/hostname is no folder; give another name"]),
        ("", ["--trainer.logger", "MLFlowLoger"],
         ["trainer.logger: there is no class MLFlowLoger; did you mean MLFlowLogger?"]),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_what_the_parser_refuses_is_explained(
    text: str, words: list[str], lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(f"{text}base: {EXPERIMENTS / 'debug.yaml'}\n")
    assert main(["fit", "-c", "mine.yaml", *words]) == 2
    shown = capsys.readouterr().err.removeprefix("error: ").splitlines()
    assert sorted(shown) == sorted(line.replace("FILE", "mine.yaml") for line in lines)
    assert not Path("runs").exists()


def test_words_that_name_no_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none\.yaml: no such file, named with -c"):
        read_command_line(["-c", str(tmp_path / "none.yaml")])
    with pytest.raises(RunError, match=r"cannot be read \(Is a directory\)"):
        read_command_line([f"--config={tmp_path}"])
    for words in (["--base", "a.yaml"], ["--base=a.yaml"]):
        with pytest.raises(RunError, match="`base` is a key of YAML files"):
            read_command_line(words)


def test_one_of_with_weights_by_yaml(tmp_path: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(BratsDataModule, "data", fail_untyped=False)

    def augmentation(transforms: Any) -> Any:
        spec = {"class_path": "torchio.OneOf", "init_args": {"transforms": transforms}}
        config = parser.parse_object({"data": {"root": str(tmp_path), "augmentation": [spec]}})
        return parser.instantiate(config, instantiators=INSTANTIATORS).data

    weights = (
        augmentation({"torchio.RandomAffine": 3, "torchio.RandomNoise": 1}).transform.transforms[0].transforms_dict
    )
    assert {type(transform).__name__: weight for transform, weight in weights.items()} == {
        "RandomAffine": 0.75,
        "RandomNoise": 0.25,
    }
    with pytest.raises(ValueError, match=r"torchio\.OneOf: torch\.nn\.ReLU is no transform"):
        augmentation({"torch.nn.ReLU": 1})


def test_an_option_takes_the_place_of_null_whatever_file_it_names(tmp_path: Path) -> None:
    """The config.yaml of a run has `ckpt_path: null`, and a checkpoint is no YAML."""
    (tmp_path / "config.yaml").write_text("ckpt_path: null")
    (tmp_path / "last.ckpt").write_bytes(b"PK\x80")
    checkpoint = str(tmp_path / "last.ckpt")
    given = read_command_line(["-c", str(tmp_path / "config.yaml"), "--ckpt_path", checkpoint])
    assert given.files.tree == {} and given.options[0].value == checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("verb", TRAINER_VERBS)
def test_the_keys_that_are_read_from_the_source_are_those_of_the_parser(verb: str) -> None:
    """All of them, such as those of the installed Lightning's trainer, and no others."""

    class Parser(RaumCLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            options = {name for action in self._parser(verb)._actions for name in action.option_strings}
            self.names = {name.removeprefix("--") for name in options if not name.endswith((".help", "+"))}
            raise StopIteration

        def __init__(self) -> None:
            with suppress(StopIteration):
                super().__init__([verb])

    assert {*leaves(known_keys(verb))} - {"keys"} == Parser().names - {"-c", "-h"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "words", "lines"),
    [
        ("", ["--trainer.max_stepz", "3"], ["trainer.max_stepz is no key; did you mean trainer.max_steps?"]),
        ("", ["--trainer.fast_dev_runn"], ["--trainer.fast_dev_runn is no option; did you mean trainer.fast_dev_run?"]),
        ("", ["-trainer.max_steps", "3"], ["-trainer.max_steps is no option; did you mean --trainer.max_steps?"]),
        ("", ["other.yaml"], ["other.yaml is no option; a YAML file is given as -c other.yaml"]),
        ("", ["-c", "other.yaml"], ["other.yaml: no such file, named with -c"]),
        ("module:\n  lrr: 1\n", [], ["mine.yaml, line 2: module.lrr is no key; did you mean module.lr?"]),
        (
            "data:\nmodule: other.yaml\n",
            ["--trainer", "other.yaml"],
            [
                "mine.yaml, line 1: data has no keys; leave it out, and it keeps those of the base",
                "mine.yaml, line 2: module=other.yaml is no group of keys; a file is given with -c, or as base",
                "trainer=other.yaml is no group of keys; a file is given with -c, or as base",
            ],
        ),
        ("model:\n  lr: 1\n", [], ["mine.yaml, line 1: model is no key; did you mean module?"]),
        (
            "module_class: null\ndata.fold: 1\ntrainer:\n  callbacks+: []\n",
            ["--module", "{depth: 3}"],
            [
                "mine.yaml, line 2: data.fold is no key; in a file its parts stand below each other: data: {fold: ...}",
                "mine.yaml, line 4: trainer.callbacks+ is no key; did you mean trainer.callbacks?",
                "module.depth is no key; did you mean module.mode?",
            ],
        ),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_typos(
    text: str, words: list[str], lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(f"{text}base: {EXPERIMENTS / 'debug.yaml'}\n")
    with pytest.raises((ConfigError, RunError)) as raised:
        check_keys("fit", ["-c", "mine.yaml", *words])
    assert sorted(str(raised.value).splitlines()) == lines


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="ascii")),
        lambda trees: st.lists(trees, max_size=3) | st.dictionaries(st.text("abc1e.-"), trees, max_size=3),
        max_leaves=6,
    )
    | st.from_regex(r"[-+]?[0-9.]{1,3}e[-+]?[0-9]{1,2}", fullmatch=True)
)
def test_what_is_written_is_read_again(tree: Any) -> None:
    """Among them `1e3`, the name of a folder or an id, which PyYAML writes without quotes."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "a.yaml")
        file.write_text(to_yaml(tree))
        assert read_yaml(file)[0] == tree


@pytest.mark.parametrize("word", ["1e3", "12e5", "012", "1_000", "12:30", "0x1F", "2020-01-01", "null", "~", "yes"])
def test_a_word_is_one_to_every_reader(word: str) -> None:
    assert yaml.safe_load(to_yaml({"a": word})) == {"a": word} == yaml.load(to_yaml({"a": word}), yaml_files._Loader)


@pytest.mark.slow
def test_a_typo_is_answered_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from raum_lightning.cli import main\n"
        f"code = main(['fit', '-c', {UNETR!r}, '--data.foldz', '1'])\n"
        "sys.exit(9 if {'torch', 'lightning', 'jsonargparse'} & sys.modules.keys() else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: data.foldz is no key; did you mean data.fold?\n"
    assert not [*tmp_path.iterdir()]


def test_words_that_are_options_of_the_parser_pass(tmp_path: Path) -> None:
    """What has keys of its own, is appended to, or asks for help; and the keys of a module of the user's own."""
    words = ["--module.network.help", "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val/loss"]
    check_keys("fit", [*words, "--print_config", "--data.class_weights", "{et: 2}", "--keys", "-c", UNETR])
    own = written(tmp_path / "own.yaml", "module_class: my.Module\nmodule: {factor: 3}")
    check_keys("fit", ["-c", own])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("--module.network.help=raum_lightning.models.UNETR", "--module.network.embed_dim EMBED_DIM"),
        ("--trainer.logger.help=raum_lightning.loggers.WandbLogger", "hash_ids"),
    ],
)
def test_the_help_of_a_class_beside_a_file(option: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "-c", str(EXPERIMENTS / "debug.yaml"), *option.split("=")])
    assert shown in capsys.readouterr().out


def test_a_file_that_is_not_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "-c"]) == 2
    assert "-c needs the name of a YAML file" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["init_args.init_filters", "init_filters"])
def test_arguments_that_are_typed_before_their_class(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"--module.network.{key}", "5", "--module.network", "monai.networks.nets.SegResNet"]
    network = printed(capsys, "-c", UNETR, *words)["module"]["network"]
    assert network["class_path"] == words[-1] and network["init_args"]["init_filters"] == 5
    given = read_command_line(["-c", UNETR, *words])
    assert [option.value for option in given.options] == [words[-1], "5"]


def test_networks_by_their_name_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # the classes that compute them fastest have the names of those of this package
    importlib.import_module("raum_lightning.models.accelerate")
    paths = {
        "UNETR": "raum_lightning.models.UNETR",
        "UNETRV2": "raum_lightning.models.UNETRV2",
        "SegResNet": "monai.networks.nets.SegResNet",
    }
    for name, path in paths.items():
        spec = f'--module.network={{"class_path": "{name}"}}'
        for words in (["--module.network", name], ["--module.network.class_path", name], [spec]):
            assert printed(capsys, "-c", UNETR, *words)["module"]["network"]["class_path"] == path
        (tmp_path / "mine.yaml").write_text(f"base: {UNETR}\nmodule: {{network: {{class_path: {name}}}}}\n")
        config = printed(capsys, "-c", str(tmp_path / "mine.yaml"), "--module.network.out_channels", "4")
        assert config["module"]["network"]["class_path"] == path


def test_a_group_that_is_typed_as_a_mapping(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = printed(capsys, "-c", UNETR, "--trainer.precision", "32-true", '--trainer={"max_epochs": 3}')["trainer"]
    assert (trainer["max_epochs"], trainer["max_steps"], trainer["precision"]) == (3, -1, "32-true")

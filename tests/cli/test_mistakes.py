"""What a user may get wrong in module, data and trainer: one sentence with key, value and what to do, no type talk."""

from argparse import ArgumentError
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from raum_lightning.cli import main
from raum_lightning.cli.command_line import read_command_line
from raum_lightning.cli.derived import derive
from raum_lightning.cli.key_errors import explain_configuration
from raum_lightning.cli.trainer import RaumCLI
from raum_lightning.errors import ConfigError
from raum_lightning.training.option_checks import check_seed, check_trainer
from tests.helpers import EXPERIMENTS

DEBUG = str(EXPERIMENTS / "debug.yaml")
CALLBACKS, LOGGER, NETWORK, LOSS = "trainer.callbacks", "trainer.logger", "module.network", "module.loss"
OPTIMIZER, SCHEDULER, AUGMENTATION = "module.optimizer", "module.lr_scheduler", "data.augmentation"
STOPPING = "lightning.pytorch.callbacks.EarlyStopping"
# options without their dashes, and what is said, all of it
MISTAKES = [
    # the class is not there
    (f"{OPTIMIZER} SGDD", f"{OPTIMIZER}: there is no class SGDD; did you mean SGD?"),
    (f"{OPTIMIZER} torch.optim.SGDD", f"{OPTIMIZER}: torch.optim has no class SGDD; did you mean SGD?"),
    (f"{SCHEDULER} StepLRR", f"{SCHEDULER}: there is no class StepLRR; did you mean StepLR?"),
    (f"{CALLBACKS} EarlyStoping", f"{CALLBACKS}: there is no class EarlyStoping; did you mean EarlyStopping?"),
    (f"{LOGGER} CSVLoger", f"{LOGGER}: there is no class CSVLoger; did you mean CSVLogger?"),
    (f"{NETWORK} UNETRR", f"{NETWORK}: there is no class UNETRR; did you mean UNETR?"),
    (f"{NETWORK} print", f"{NETWORK}: there is no class print"),
    (f"{LOSS} torch.nn.CrossEntropy", f"{LOSS}: torch.nn has no class CrossEntropy; did you mean CrossEntropyLoss?"),
    (
        f"{AUGMENTATION} [torchio.RandomAffin]",
        f"{AUGMENTATION}[0]: torchio has no class RandomAffin; did you mean RandomAffine?",
    ),
    (
        f"{NETWORK} raum_lightnin.models.UNETR",
        f"{NETWORK}: raum_lightnin.models.UNETR cannot be imported (No module named 'raum_lightnin'); a file of your "
        "own is found beside the YAML file or in the current folder",
    ),
    # it is another kind of class, or none
    (f"{OPTIMIZER} torch.nn.ReLU", f"{OPTIMIZER}: torch.nn.ReLU is no Optimizer; give a class that inherits from it"),
    (f"{SCHEDULER} torch.nn.ReLU", f"{SCHEDULER}: torch.nn.ReLU is no LRScheduler; give a class that inherits from it"),
    (f"{NETWORK} torch.optim.SGD", f"{NETWORK}: torch.optim.SGD is no Module; give a class that inherits from it"),
    (f"{LOSS} torchio.RandomNoise", f"{LOSS}: torchio.RandomNoise is no Module; give a class that inherits from it"),
    (f"{LOGGER} torch.nn.ReLU", f"{LOGGER}: torch.nn.ReLU is no Logger; give a class that inherits from it"),
    (f"{CALLBACKS} [torch.nn.ReLU]", f"{CALLBACKS}[0]: torch.nn.ReLU is no Callback; give a class that inherits from "
     "it"),
    (f"{NETWORK} collections.OrderedDict", f"{NETWORK}: collections.OrderedDict is no Module; give a class that "
     "inherits from it"),
    (f"{CALLBACKS} [5]", f"{CALLBACKS}[0]=5 must be the class_path of a Callback"),
    (f"{CALLBACKS} [null]", f"{CALLBACKS}[0]=null must be the class_path of a Callback"),
    (f"{CALLBACKS} 5", f"{CALLBACKS}=5 must be a list of classes of Callback, the class_path of a Callback or null"),
    (f"{CALLBACKS} [{{class_path: 5}}]", f"{CALLBACKS}[0]: class_path=5 must be the path of a Callback"),
    (f"{CALLBACKS} [{{class: A}}]", f"{CALLBACKS}[0]={{'class': 'A'}} must be the class_path of a Callback"),
    (f"{LOGGER} [5]", f"{LOGGER}[0]=5 must be the class_path of a Logger"),
    (f"{OPTIMIZER} [1]", f"{OPTIMIZER}=[1] must be the class_path of an Optimizer or null"),
    (f"{NETWORK} null", f"{NETWORK}=null must be the class_path of a Module"),
    # its arguments
    (f"{SCHEDULER} StepLR", f"{SCHEDULER}: StepLR needs step_size; give it below init_args"),
    (f"{CALLBACKS} [{{class_path: EarlyStopping}}]",
     f"{CALLBACKS}[0]: EarlyStopping needs monitor; give it below init_args"),
    (f"{NETWORK} torch.nn.Conv3d", f"{NETWORK}: Conv3d needs kernel_size; give it below init_args"),
    (f"{LOSS} raum_lightning.losses.WithChannel", f"{LOSS}: WithChannel needs loss; give it below init_args"),
    (f"{AUGMENTATION} [{{class_path: torchio.OneOf}}]",
     f"{AUGMENTATION}[0]: OneOf needs transforms; give it below init_args"),
    (f"{OPTIMIZER} SGD {OPTIMIZER}.lrr 1", f"{OPTIMIZER}.init_args.lrr is no argument of SGD; did you mean lr?"),
    (
        f"{CALLBACKS} [{{class_path: {STOPPING}, init_args: {{monitr: a}}}}]",
        f"{CALLBACKS}[0].init_args.monitr is no argument of EarlyStopping; did you mean monitor?",
    ),
    (
        f"{CALLBACKS} [{{class_path: {STOPPING}, init_args: {{monitor: 5, patience: x}}}}]",
        f"{CALLBACKS}[0].init_args.monitor=5 must be a word\n"
        f"{CALLBACKS}[0].init_args.patience='x' must be a whole number",
    ),
    (f"{OPTIMIZER} SGD {OPTIMIZER}.lr abc", f"{OPTIMIZER}.init_args.lr='abc' must be a number or a list of numbers"),
    (f"{SCHEDULER} StepLR {SCHEDULER}.step_size x", f"{SCHEDULER}.init_args.step_size='x' must be a whole number"),
    (f"{NETWORK}.num_heads x", f"{NETWORK}.init_args.num_heads='x' must be a whole number"),
    (f"{NETWORK}.foo 1", f"{NETWORK}.init_args.foo is no argument of UNETR"),
    (f"{LOGGER} {{init_args: {{name: a}}}}", f"{LOGGER}.init_args.name is no argument of CSVLogger"),
    (
        f"{LOGGER} {{class_path: TensorBoardLogger, init_args: {{name: [1, 2]}}}}",
        f"{LOGGER}.init_args.name=[1, 2] must be a word or null",
    ),
    (f"{AUGMENTATION} [{{class_path: torchio.RandomAffine, init_args: {{p: x}}}}]",
     f"{AUGMENTATION}[0].init_args.p='x' must be a number"),
    # single values
    (f"{AUGMENTATION} strongg",
     f"{AUGMENTATION}='strongg' must be a list of classes of Transform, light, default, strong, "
     "true or false; did you mean strong?"),
    ("module.roi_size [1,2]", "module.roi_size=[1, 2] must be a list of 3 whole numbers or null"),
    ("module.betas [.9,x]", "module.betas[1]='x' must be a number"),
    ("module.metrics dice", "module.metrics='dice' must be a list of words; write [dice]"),
    ("module.compile maybe", "module.compile='maybe' must be true or false"),
    ("module.schedule cosin", "module.schedule='cosin' must be cosine or polynomial; did you mean cosine?"),
    ("data.batch_size 1.5", "data.batch_size=1.5 must be a whole number"),
    ("data.batch_size null", "data.batch_size=null must be a whole number"),
    ("data.modalities flair", "data.modalities='flair' must be a list of words or null; write [flair]"),
    ("data.class_weights {et: x}", "data.class_weights={'et': 'x'} must be keys with numbers or null"),
    ("trainer.gradient_clip_val nan", "trainer.gradient_clip_val='nan' must be a number or null"),
    ("trainer.max_epochs many", "trainer.max_epochs='many' must be a whole number or null"),
    ("trainer.num_nodes {a: 1}", "trainer.num_nodes={'a': 1} must be a whole number"),
]  # fmt: skip


@pytest.fixture(scope="module")
def parsers() -> tuple[Any, Any]:
    """The parser of all verbs and that of fit, made once."""

    class Parsers(RaumCLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            self.made = parser, self._parser("fit")
            raise StopIteration

        def __init__(self) -> None:
            with suppress(StopIteration):
                super().__init__(["fit"])

    return Parsers().made


def options(text: str) -> list[str]:
    """The words of options, each a key and a value that may hold spaces."""
    words = text.split(" ")
    ats = [at for at, word in enumerate(words) if word.startswith(("module.", "data.", "trainer."))]
    found = []
    for at, end in zip(ats, [*ats[1:], len(words)], strict=True):
        found += [f"--{words[at]}", " ".join(words[at + 1 : end])]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("text", "said"), MISTAKES, ids=[text for text, _ in MISTAKES])
def test_a_mistake_is_one_sentence(text: str, said: str, parsers: tuple[Any, Any], tmp_path: Path) -> None:
    parser, fit = parsers
    given = read_command_line(["-c", DEBUG, "--data.root", str(tmp_path), *options(text)])
    derived = derive(given)
    with pytest.raises(ArgumentError) as refused:
        parser.parse_args(["fit", f"--config={yaml.safe_dump(derived.tree)}", *derived.words])
    assert explain_configuration(fit, given, refused.value) == said


TIME = "must be a time above 0 as days:hours:minutes:seconds, such as 00:12:00:00, or keys of weeks, days, hours, "


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ({"val_check_interval": 0}, "val_check_interval=0 never validates; give a number of batches"),
        (
            {"val_check_interval": -1},
            "val_check_interval=-1 must be a number of batches, or a share of them between 0 and",
        ),
        ({"val_check_interval": "soon"}, f"val_check_interval=soon {TIME}"),
        ({"limit_train_batches": -1.0}, "limit_train_batches=-1.0 must be a number of batches, or a share of them"),
        ({"limit_val_batches": -0.5}, "limit_val_batches=-0.5 must be a number of batches, or a share of them"),
        ({"limit_test_batches": 1.5}, "limit_test_batches=1.5 must be a number of batches, or a share of them"),
        ({"limit_predict_batches": float("nan")}, "limit_predict_batches=nan must be a number of batches, or a share"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches=0 must be a number of at least 1"),
        ({"gradient_clip_val": -1}, "gradient_clip_val=-1 must be a number of at least 0"),
        ({"gradient_clip_val": float("nan")}, "gradient_clip_val=nan must be a number of at least 0"),
        ({"log_every_n_steps": -1}, "log_every_n_steps=-1 must be a number of at least 0"),
        ({"check_val_every_n_epoch": 0}, "check_val_every_n_epoch=0 must be a number of at least 1"),
        ({"num_nodes": 0}, "num_nodes=0 must be a number of at least 1"),
        ({"num_sanity_val_steps": -2}, "num_sanity_val_steps=-2 must be a number of at least -1"),
        ({"max_epochs": -2}, "max_epochs=-2 must be a number of at least -1"),
        ({"max_steps": 5, "min_steps": 10}, "min_steps=10 is above trainer.max_steps=5; raise one or lower the other"),
        ({"precision": "16-true"}, "precision=16-true has too few digits for weights; give 16-mixed or bf16-true"),
        ({"max_time": "abc"}, f"max_time=abc {TIME}"),
        ({"max_time": "00:00:00:00"}, f"max_time=00:00:00:00 {TIME}"),
        ({"max_time": {"hour": 1}}, f"max_time={{'hour': 1}} {TIME}"),
        ({"max_time": {"hours": -1}}, f"max_time={{'hours': -1}} {TIME}"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_numbers_of_the_trainer(trainer: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_trainer(trainer)
    assert str(refused.value).startswith(f"trainer.{said}")


def test_numbers_that_are_right_pass() -> None:
    check_trainer({"val_check_interval": 1.0, "limit_val_batches": 0, "limit_train_batches": 7.0, "max_time": None})
    check_trainer({"val_check_interval": 250, "max_time": {"hours": 12}, "max_epochs": -1, "min_epochs": 3})
    check_trainer({"max_time": "00:12:00:00", "val_check_interval": "00:00:30:00", "fast_dev_run": True})
    for seed in (None, 0, 2**32 - 1):
        check_seed(seed)
    with pytest.raises(ConfigError, match="seed_everything=-1 must be a whole number from 0 to 4294967295"):
        check_seed(-1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trainer.val_check_interval", "0"], "error: trainer.val_check_interval=0 never validates; give"),
        (["--seed_everything=-1"], "error: seed_everything=-1 must be a whole number from 0 to 4294967295\n"),
        (
            [f"--{CALLBACKS}", f"[{{class_path: {STOPPING}, init_args: {{monitor: a, mode: up}}}}]"],
            "trainer.callbacks[0].init_args.mode: EarlyStopping: `mode` can be min, max, got up\n",
        ),
        (
            [f"--{CALLBACKS}+=OnExceptionCheckpoint", f"--{CALLBACKS}.dirpath", "elsewhere"],
            "trainer.callbacks: OnExceptionCheckpoint would have the next run go on from its file; one that is stopped "
            "saves last.ckpt anyway\n",
        ),
        ([f"--{CALLBACKS}+=LearningRateFinder"], "LearningRateFinder changes a rate that module.optimizer does not"),
        ([f"--{CALLBACKS}+=BatchSizeFinder"], "BatchSizeFinder would resume from steps of other sizes; `raum plan`"),
        (
            [f"--{CALLBACKS}+=StochasticWeightAveraging", f"--{CALLBACKS}.swa_lrs", "0.1"],
            "trainer.callbacks: StochasticWeightAveraging averages weights that no validation scores and no checkpoint "
            "keeps; give module.ema\n",
        ),
        ([f"--{NETWORK}.depth", "0"], "error: module.network.init_args.depth: UNETR: depth=0 must be a whole number"),
        (
            [f"--{AUGMENTATION}", "[{class_path: torchio.RandomNoise, init_args: {p: 2}}]"],
            "data.augmentation[0]: RandomNoise: Probability must be a number in [0, 1], not 2.0\n",
        ),
        (
            [f"--{AUGMENTATION}", "[{class_path: raum_lightning.data.augment.RandomBiasField, init_args: {p: 2}}]"],
            "data.augmentation[0]: RandomBiasField: Probability must be a number in [0, 1], not 2.0\n",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_classes_and_trainer_refuse(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "-c", DEBUG, "--trainer.logger", "false", *words]) == 2
    assert said in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name == "runs"]

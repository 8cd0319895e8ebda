"""What W&B is told and what not: nothing of a run that stays offline, no id that is hashed, and the best Dice."""

import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import loggers
from wandb.errors import AuthenticationError, CommError

from raum_lightning.errors import ConfigError
from raum_lightning.loggers import CSVLogger, WandbLogger, finish_wandb

# an audit hook sees what Python asks the network for; W&B's own process, in Go, takes the proxy of the environment
LOG = """
import sys
asked = []

def hook(event, arguments):
    if event == "socket.getaddrinfo":
        asked.append(str(arguments[0]))
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        asked.append(str(arguments[1][0]))

sys.addaudithook(hook)
from raum_lightning.loggers import WandbLogger, finish_wandb
logger = WandbLogger(save_dir=sys.argv[1], hash_ids=bool(sys.argv[2]))
logger.log_metrics({"val/dice_mean": 0.5}, 0)
finish_wandb()
print("asked", sorted({host for host in asked if host not in ("127.0.0.1", "localhost")}))
"""
HOME = {"HOME", "NETRC", "XDG_CONFIG_HOME"}


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a proxy that serves nobody, and what it was asked for."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # closed
                    return
                with connection:
                    asked.append(connection.recv(200))

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
        server.shutdown(socket.SHUT_RDWR)


def log(folder: Path, proxy: str, *, hash_ids: bool = False, **more: str) -> str:
    """Log a number in a process without a key of W&B; return the hosts that its Python asked for."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_") and name not in HOME}
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), proxy)
    environment = kept | proxies | {"HOME": str(folder)} | more
    run = [sys.executable, "-c", LOG, str(folder), "1" * hash_ids, "--data.splits=/data/patient-0815/splits.json"]
    return subprocess.run(run, env=environment, capture_output=True, text=True, check=True, timeout=280).stdout


@pytest.mark.slow
def test_nothing_is_sent_of_a_run_that_is_offline(tmp_path: Path, proxy: tuple[str, list[bytes]]) -> None:
    address, asked = proxy
    assert "asked []" in log(tmp_path, address)
    assert asked == []
    (run,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"patient-0815" in run.read_bytes()  # of the command line, which no option asks to hide


@pytest.mark.slow
def test_what_would_be_sent_is_seen(tmp_path: Path, proxy: tuple[str, list[bytes]]) -> None:
    """W&B's default, without which the test above could not fail."""
    address, asked = proxy
    said = log(tmp_path, address, WANDB_ERROR_REPORTING="true")
    assert asked or "asked []" not in said


@pytest.mark.slow
def test_ids_are_hashed_in_the_configuration(tmp_path: Path) -> None:
    logger = WandbLogger(save_dir=tmp_path, offline=True, hash_ids=True)
    assert logger.shown_id("p01") == hashlib.blake2b(b"p01", digest_size=6).hexdigest() != "p01"
    data = {"exclude": ["p01"], "case_weights": {"p02": 2}, "fold": 1}
    logger.log_hyperparams({"data": data, "module": {"lr": 0.1}, "split": {"train": ["p03"], "val": []}})
    assert data["exclude"] == ["p01"]
    kept = dict(logger.experiment.config)
    finish_wandb()
    assert kept["module"] == {"lr": 0.1} and kept["data"]["fold"] == 1
    assert kept["data"]["exclude"] == [logger.shown_id("p01")]
    assert kept["split"] == {"train": [logger.shown_id("p03")], "val": []}
    assert kept["data"]["case_weights"] == {logger.shown_id("p02"): 2}


@pytest.mark.slow
def test_the_command_line_is_not_sent_where_ids_are_hashed(tmp_path: Path) -> None:
    log(tmp_path, "http://127.0.0.1:9", hash_ids=True)
    (run,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"patient-0815" not in run.read_bytes()


def test_a_checkpoint_names_its_cases(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="log_model sends a checkpoint, which names its cases"):
        WandbLogger(save_dir=tmp_path, offline=True, hash_ids=True, log_model="best")


def test_ids_are_sent_as_they_are_else(tmp_path: Path) -> None:
    assert WandbLogger(save_dir=tmp_path, offline=True).shown_id("p01") == "p01"


@pytest.mark.parametrize(("hash_ids", "said"), [(True, "ValueError"), (False, "the loss became NaN at p01")])
def test_an_alert_names_no_case_where_ids_are_hashed(tmp_path: Path, hash_ids: bool, said: str) -> None:
    alerts = []
    logger = WandbLogger(save_dir=tmp_path, offline=True, hash_ids=hash_ids, alerts=True)
    logger._experiment = SimpleNamespace(alert=lambda **words: alerts.append(words["text"]))
    logger.alert_failure(ValueError("the loss became NaN at p01"))
    assert alerts == [said]


class Summary(WandbLogger):
    """Keeps what a sweep would optimise."""

    def __init__(self, folder: Path) -> None:
        self.lost, self.verb, self.best, self.folder = False, "fit", None, folder
        self.summary: dict[str, float] = {}
        self._prefix, self._wandb_init, self._save_dir = "", {}, str(folder)

    @property
    def experiment(self) -> Any:
        return SimpleNamespace(summary=self.summary, log=lambda *row: None)


def test_the_best_dice_never_falls(tmp_path: Path) -> None:
    """Neither by a region that no case has, nor by a process that goes on, wherever W&B's own files lie."""
    before = CSVLogger(tmp_path)
    before.log_metrics({"val/dice_et": 0.9}, 9)
    before.log_metrics({"val/dice_et": float("nan"), "val/dice_wt": 0.5}, 19)
    logger = Summary(tmp_path)
    for value in (0.4, float("nan"), 0.6):
        logger.log_metrics({"val/dice_et": value, "val/dice_wt": value}, 29)
    assert logger.summary == {"val/dice_et": 0.9, "val/dice_wt": 0.6} and not logger.lost


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            AuthenticationError("API key must have 40+ characters, has 3."),
            r"does not take the key \(API key must have 40",
        ),
        (CommError("no route"), "cannot be reached: the run stays on disk"),
    ],
)
def test_a_key_that_is_refused_is_not_a_server_that_is_away(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = iter([error])

    def experiment(_: Any) -> Any:
        for refused in tries:
            raise refused
        return SimpleNamespace()

    monkeypatch.setattr(loggers.WandbLogger, "experiment", property(experiment))
    logger = WandbLogger(save_dir=tmp_path, offline=False)
    with caplog.at_level("INFO"):
        assert logger.experiment and logger._wandb_init["mode"] == "offline"
    assert re.search(f"W&B {said}", caplog.text)

"""W&B with a server that goes away: numbers are kept, and nothing waits for it."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import wandb
import yaml

from raum_lightning.cli import main
from raum_lightning.loggers import CSVLogger, WandbLogger, finish_wandb, sending
from tests.helpers import DEBUG, EXPERIMENTS, ROOT
from tests.helpers.processes import exit_codes
from tests.helpers.ranks import PROCESSES

RUN = {"id": "x", "name": "abc", "displayName": "n", "project": {"name": "raum", "entity": {"name": "me"}}}
# a sweep of one trial of debug.yaml, by the command of experiments/sweeps/unetr.yaml
SWEEP = yaml.safe_load((EXPERIMENTS / "sweeps" / "unetr.yaml").read_text())
SMALL = [DEBUG if word.endswith(".yaml") else word for word in SWEEP["command"]]
TRIAL = {
    "type": "run",
    "run_id": "abc",
    "program": "lightning",
    "args": {"module.lr": {"value": 0.002}, "trainer.max_steps": {"value": 2}, "data.root": {"value": "cases"}},
}
ANSWERS: dict[bytes, dict[str, Any]] = {
    b"Viewer": {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}},
    b"ServerInfo": {"serverInfo": {"cliVersionInfo": {"max_cli_version": "1.0.0"}, "latestLocalVersionInfo": None}},
    b"RunResumeStatus": {"model": {"bucket": None, "name": "raum", "entity": {"name": "me"}}},
    b"SweepWithRuns": {
        "project": {"sweep": {"config": yaml.safe_dump(SWEEP | {"command": SMALL}), "runs": {"edges": []}}}
    },
    b"CreateRunFiles": {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": []}},
    b"CreateAgent": {"createAgent": {"agent": {"id": "a"}}},
    b"UpsertBucket": {"upsertBucket": {"bucket": RUN | {"historyLineCount": 0}, "inserted": True}},
}


class Answers(BaseHTTPRequestHandler):
    """As much of W&B's server as a run needs to begin."""

    trials: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        question = self.rfile.read(int(self.headers["Content-Length"]))
        if b"mutation Heartbeat" in question:
            # the agent says of each trial whether it still runs
            ended = not self.trials and b"abc" not in question
            commands = [self.trials.pop()] if self.trials else [{"type": "exit"}] if ended else []
            self.answer({"agentHeartbeat": {"agent": {"id": "a"}, "commands": json.dumps(commands)}})
            return
        data = next((answer for name, answer in ANSWERS.items() if name in question), {})
        self.answer(data)

    def answer(self, data: dict[str, Any]) -> None:
        body = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *unused: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield serving
        serving.shutdown()


def _log(folder: Path, port: int, patience: int, last: int, began: Any, go_on: Any) -> None:
    """Log 20 losses; `patience` and `last` are the seconds that W&B waits for the server at start and end."""
    os.environ.pop("WANDB_SERVICE", None)  # of the process that the forkserver is a child of
    os.environ |= {"WANDB_BASE_URL": f"http://127.0.0.1:{port}", "WANDB_API_KEY": "0" * 40, "WANDB_SILENT": "true"}
    os.environ |= {"WANDB_INIT_TIMEOUT": str(patience), "WANDB_FINISH_TIMEOUT": str(last)}
    with (folder / "output.txt").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    logger = WandbLogger(save_dir=folder, id="abc", name="n")
    logger.log_metrics({"loss": 0.0}, 0)
    began.set()
    go_on.wait(30)
    for step in range(1, 20):
        logger.log_metrics({"loss": float(step)}, step)
    finish_wandb()
    # a process of multiprocessing ends without what Python does at exit, where W&B's own process closes its file
    wandb.teardown()


def updates(folder: Path, run_id: str, name: str) -> list[Any]:
    """Return the values that a number of the summary had, from W&B's own file of a run that was online."""
    (run,) = folder.glob(f"wandb/run-*-{run_id}")
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(run)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    summaries = [record["summary"]["update"] for record in map(json.loads, lines) if record["type"] == "summary"]
    return [summary[name] for summary in summaries if name in summary]


def kept(folder: Path, kind: str) -> list[float]:
    """The losses on disk, in the only run of a kind: run or offline-run."""
    (run,) = folder.glob(f"wandb/{kind}-*-abc")
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(run)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    records = [json.loads(line) for line in shown.splitlines()]
    return [record["history"]["item"]["loss"] for record in records if record["type"] == "history"]


def test_a_server_that_goes_away(tmp_path: Path, server: ThreadingHTTPServer) -> None:
    began, go_on = PROCESSES.Event(), PROCESSES.Event()
    process = PROCESSES.Process(target=_log, args=(tmp_path, server.server_port, 60, 10, began, go_on))
    process.start()
    try:
        assert began.wait(90)
        server.shutdown()
        server.server_close()
        go_on.set()
    finally:
        codes = exit_codes(process)
    assert codes == [0]
    assert kept(tmp_path, "run") == list(range(20))
    command = sending(tmp_path).split("`")[1] + " --dry-run"
    assert sending("runs/a b").startswith("`wandb sync --include-online 'runs/a b'/wandb/*run-*`")  # for a shell
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    shown = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=True)
    assert "Would sync 1 run" in shown.stdout + shown.stderr


@pytest.mark.parametrize(
    ("environment", "offline", "mode", "said"),
    [
        ({}, None, "offline", "W&B has no key: the run stays"),
        ({"WANDB_API_KEY": "0" * 40}, None, "online", ""),
        ({"WANDB_API_KEY": "0" * 40}, True, "offline", "W&B is offline as configured: the run stays"),
        ({"WANDB_MODE": "offline", "WANDB_API_KEY": "0" * 40}, False, "offline", "W&B is offline by WANDB_MODE: the"),
        ({"WANDB_MODE": "disabled"}, None, "disabled", ""),
    ],
)
def test_online_or_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    environment: dict[str, str],
    offline: bool | None,
    mode: str,
    said: str,
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    logger = WandbLogger(save_dir=tmp_path, offline=offline)
    assert logger._wandb_init["mode"] == mode
    assert said in caplog.text if said else not caplog.text
    if mode == "disabled":
        logger.log_metrics({"val/dice_mean": 0.5}, 0)
        finish_wandb()
        assert not list(tmp_path.rglob("*run-*"))


def test_a_run_that_fails_is_not_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = []
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(finish=lambda exit_code: codes.append(exit_code)))
    assert main(["validate", "--data.root", "none", "--module.network", "torch.nn.Identity", "--run.id", "none"]) == 2
    finish_wandb()
    assert codes == [1, 0]


def test_no_server_at_all(tmp_path: Path) -> None:
    event = PROCESSES.Event()
    event.set()
    process = PROCESSES.Process(target=_log, args=(tmp_path, 9, 1, 60, event, event))
    process.start()
    assert exit_codes(process) == [0]
    assert "W&B cannot be reached: the run stays on disk, `wandb sync" in (tmp_path / "output.txt").read_text()
    assert kept(tmp_path, "offline-run") == list(range(20))


def test_a_run_ends_with_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logger = WandbLogger(save_dir=tmp_path, id="one", offline=True)
    logger.log_metrics({"loss": 0.5}, 0)
    capfd.readouterr()
    finish_wandb()
    shown, folder = capfd.readouterr(), tmp_path / "wandb"
    said = f"W&B: `wandb sync {folder}/*-one` sends it, `wandb leet {folder}` shows it\n"
    assert (shown.out, shown.err) == (said, "")


def test_the_summary_of_a_dice_is_its_best_as_a_number(tmp_path: Path) -> None:
    logger = WandbLogger(save_dir=tmp_path, id="one", offline=True)
    for step, dice in enumerate((0.5, 0.8, 0.6)):
        logger.log_metrics({"val/dice_mean": dice, "val/loss": dice}, step)
    summary = dict(logger.experiment.summary)
    finish_wandb()
    assert (summary["val/dice_mean"], summary["val/loss"], summary["dice/mean"]) == (0.8, 0.6, 0.6)


def test_a_resumed_run_keeps_its_best(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,val/dice_mean,val/loss\n1,0.9,0.2\n2,,0.1\n3,0.7,0.1\n")
    logger = WandbLogger(save_dir=tmp_path, id="one", offline=True)
    logger.log_metrics({"val/dice_mean": 0.8}, 5)
    summary = dict(logger.experiment.summary)
    finish_wandb()
    assert summary["val/dice_mean"] == 0.9


def test_an_agent_of_a_sweep_trains_and_its_score_is_a_number(
    tmp_path: Path, brats: Path, server: ThreadingHTTPServer
) -> None:
    Answers.trials.append(TRIAL)
    programs = Path(sys.executable).parent
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")} | {
        "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}",
        "WANDB_API_KEY": "0" * 40,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [programs / "wandb", "agent", "me/raum/s1"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    run = tmp_path / "runs/debug/sweep-abc"
    assert done.returncode == 0, done.stderr[-2000:]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["module"]["lr"], config["trainer"]["max_steps"]) == (0.002, 2)
    rows = [row for row in CSVLogger(run).rows() if row["val/dice_mean"]]
    (scored,) = set(updates(run, "abc", SWEEP["metric"]["name"]))
    assert scored == pytest.approx(max(float(row["val/dice_mean"]) for row in rows))

"""SIGTERM and Ctrl-C to commands that do not train: one line, the exit code, nothing half done and no process left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from raum_lightning import signals
from raum_lightning.cli import main, view

WORDS = ["view", "case", "--out", "a.png"]
# a command whose worker says its number and works for long
POOL = """
import os, sys, time
from raum_lightning.cli import main, view
from raum_lightning.metrics.evaluation import processes

def run(args):
    with processes(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(60)

if __name__ == "__main__":
    view.run = run
    sys.exit(main(["view", "case", "--out", "a.png"]))
"""


@pytest.mark.parametrize(("signum", "code", "line"), [(15, 143, "terminated\n"), (2, 130, "interrupted\n")])
def test_a_signal_closes_what_is_open_and_is_one_line(
    signum: int, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed: list[str] = []

    def run(_: Any) -> int:
        try:
            os.kill(os.getpid(), signum)
            time.sleep(60)
        finally:
            closed.append("closed")
        return 0

    monkeypatch.setattr(view, "run", run)
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    assert main(WORDS) == code
    assert capsys.readouterr().err == line and closed == ["closed"]
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_signal_ends_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with pytest.raises(signals.Terminated), signals.stopping():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
    assert ended == [130] and capsys.readouterr().err == "stopped at once\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "group", "code"), [(signal.SIGTERM, True, 143), (signal.SIGINT, True, 130), (signal.SIGKILL, False, -9)]
)
def test_no_worker_stays(signum: signal.Signals, group: bool, code: int, tmp_path: Path) -> None:
    script = tmp_path / "command.py"
    script.write_text(POOL)
    started = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen([sys.executable, str(script)], **started) as command:  # type: ignore[call-overload]
        worker = int(command.stdout.readline())
        (os.killpg if group else os.kill)(command.pid, signum)
        _, said = command.communicate(timeout=120)
        assert command.returncode == code and "Traceback" not in said
    limit = time.monotonic() + 120
    while Path(f"/proc/{worker}").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()

"""A SLURM of one controller and two nodes on this machine, with keys, ports and files of its own."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

CONFIG = """
ClusterName=raum
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=20
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node1} CPUs=4
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={node2} CPUs=4
PartitionName=main Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """What is asked of a running cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            # the nodes are this machine: their names lead nowhere
            "MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
        }

    def call(self, *command: str, **variables: str) -> str:
        """The output of one of SLURM's programs."""
        environment = self.environment | variables
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, cwd=self.folder
        ).stdout

    def submit(self, *words: str, **variables: str) -> str:
        """`sbatch WORDS`; the job's number."""
        return self.call("sbatch", "--parsable", *words, **variables).strip()

    def state(self, job: str) -> str:
        """The state of a job, such as PENDING."""
        shown = dict(pair.split("=", 1) for pair in self.call("scontrol", "show", "job", job).split() if "=" in pair)
        return shown["JobState"]

    def wait(self, job: str, *states: str, seconds: float = 300) -> str:
        """Waits until a job is in one of the states; requeued jobs are not left waiting for minutes.

        Three seconds they are: nodes refuse a job that comes back before they have forgotten its last credential.
        """
        pending_since: list[float] = []

        def reached() -> str | None:
            state = self.state(job)
            if state in states:
                return state
            if state != "PENDING":
                pending_since.clear()
            elif not pending_since:
                pending_since.append(time.monotonic())
            elif time.monotonic() > pending_since[0] + 3:
                subprocess.run(
                    ["scontrol", "update", f"job={job}", "StartTime=now"], env=self.environment, capture_output=True
                )
            return None

        return wait(reached, f"job {job} in {' or '.join(states)}", seconds)

    def output(self, job: str) -> str:
        """What a job has printed so far."""
        path = self.folder / f"slurm-{job}.out"
        return path.read_text() if path.exists() else ""

    def process(self, job: str, rank: int) -> int:
        """The process of a rank."""
        wanted = {f"SLURM_JOB_ID={job}", f"SLURM_PROCID={rank}"}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    variables = (entry / "environ").read_text(errors="replace").split("\0")
                    command = (entry / "cmdline").read_text()
                except OSError:
                    continue
                if wanted <= set(variables) and "lightning" in command:
                    return int(entry.name)
        raise LookupError(f"job {job} has no rank {rank}")


def wait(condition: Callable[[], T | None], what: str, seconds: float = 120) -> T:
    """What the condition gives as soon as it is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.3)
    raise TimeoutError(f"{what}: not within {seconds:.0f} s")


@contextmanager
def cluster(folder: Path) -> Iterator[Slurm]:
    """Starts the daemons and ends them."""
    port, node1, node2 = _free_ports(3)
    config = CONFIG.format(
        folder=folder, host=socket.gethostname().partition(".")[0], port=port, node1=node1, node2=node2
    )
    (folder / "slurm.conf").write_text(config)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    for name in ("state", "node1", "node2"):
        (folder / name).mkdir()
    munge = ["--foreground", "--force", *(f"--{name}={folder}/munge.{end}" for name, end in MUNGE_FILES.items())]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        slurm = Slurm(folder)
        for command in (
            ["munged", *munge],
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", "node1"],
            ["slurmd", "-D", "-N", "node2"],
        ):
            program = shutil.which(command[0]) or command[0]
            with (folder / f"{len(daemons)}-{command[0]}.log").open("w") as log:
                daemons.append(subprocess.Popen([program, *command[1:]], env=slurm.environment, stdout=log, stderr=log))
            time.sleep(1)
        wait(
            lambda: "idle" in _answer(slurm, "sinfo", "-h", "-t", "idle", "-n", "node1,node2", "-o", "%D %t") and True,
            "nodes",
            60,
        )
        yield slurm
    finally:
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(30)


MUNGE_FILES = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}


def _answer(slurm: Slurm, *command: str) -> str:
    done = subprocess.run(command, env=slurm.environment, capture_output=True, text=True)
    return done.stdout


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports

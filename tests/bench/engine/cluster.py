"""A SLURM cluster of two nodes on this machine, on ports of its own, from Debian's packages."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
NODES = ("n1", "n2")
CONFIGURATION = """\
ClusterName=loop
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/d-%n.pid
SlurmctldLogFile={folder}/log/ctld.log
SlurmdLogFile={folder}/log/d-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/jobcomp.log
SlurmctldParameters=preempt_send_user_signal
ReturnToService=2
SlurmdTimeout=8
KillWait=3
MaxArraySize=4
MailProg=/bin/true
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=4000
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=off
"""


def missing() -> str:
    """Why there can be no cluster here; empty if there can be one."""
    gone = [name for name in PROGRAMS if not shutil.which(name)]
    if gone:
        return f"there is no {', '.join(gone)} here (Debian: slurm-wlm, munge)"
    return "" if os.geteuid() == 0 else "slurmd has to be started by root"


class Cluster:
    """``environment``: what its clients need."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.processes = folder, dict[str, subprocess.Popen[bytes]]()
        self.conf = folder / "slurm.conf"
        self.environment = {"SLURM_CONF": str(self.conf)}

    def start(self) -> None:
        """Returns when both nodes are idle."""
        for name in ("state", "spool/n1", "spool/n2", "log"):
            (self.folder / name).mkdir(parents=True)
        words = {"host": socket.gethostname().split(".")[0], "folder": self.folder}
        self.conf.write_text(CONFIGURATION.format(ports=_free_ports(3), **words))
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self._spawn(
            *("munge", "munged", "--foreground", "--force", f"--key-file={key}"),
            *(f"--socket={self.folder}/munge.socket", f"--pid-file={self.folder}/munge.pid"),
            *(f"--log-file={self.folder}/munge.log", f"--seed-file={self.folder}/munge.seed"),
        )
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait("idle")

    def start_controller(self) -> None:
        self._spawn("ctld", "slurmctld", "-D")

    def start_node(self, node: str) -> None:
        self._spawn(node, "slurmd", "-D", "-N", node)

    def kill(self, name: str) -> None:
        """SIGKILL to a daemon: ``ctld``, ``n1``, ``n2``."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def call(self, *command: str) -> str:
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=60
        )
        return done.stdout + done.stderr

    def wait(self, state: str, seconds: float = 60) -> None:
        """Until both nodes are in ``state``."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            states = self.call("sinfo", "-h", "-N", "-o", "%T").split()
            if states and set(states) == {state}:  # a line for each partition of a node
                return
            time.sleep(0.5)
        raise TimeoutError(f"nodes are {states}, not {state}: see {self.folder}/log")

    def stop(self) -> None:
        self.call("scancel", "--me")
        for process in reversed(self.processes.values()):
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()

    def _spawn(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.processes[name] = subprocess.Popen(
                command, env=os.environ | self.environment, stdout=out, stderr=out
            )


def _free_ports(count: int) -> Sequence[int]:
    """Below those that a system gives to outgoing connections, or srun might get one of them while
    its daemon is down.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            ports.append(port)
    return ports


def running(folder: Path) -> Iterator[Cluster]:
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()

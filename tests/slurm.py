"""A Slurm of one node on this machine, without systemd: munged, slurmctld and slurmd, in a folder of their own."""

import contextlib
import getpass
import os
import pathlib
import shutil
import socket
import subprocess
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "sinfo", "scancel", "squeue")
SBIN = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"
CONFIG = """
ClusterName=kipx
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    """Why there can be no Slurm here, or None."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=SBIN) is None]
    if absent:
        return f"Slurm is not installed (no {', '.join(absent)}); on Debian: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "slurmd must be started by root"


@contextlib.contextmanager
def cluster(folder):
    """Yields environment variables that lead sbatch and srun to a Slurm of its own; ends its three processes."""
    folder = pathlib.Path(folder)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    folder.chmod(0o755)
    controller, daemon = _ports()
    names = {"host": socket.gethostname().partition(".")[0], "user": getpass.getuser(), "folder": folder}
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(controller=controller, daemon=daemon, cpus=os.cpu_count(), **names))
    environment = {**os.environ, "SLURM_CONF": str(config), "PATH": SBIN}
    munge = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    munge += [f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed"]
    with contextlib.ExitStack() as stack:
        for command in (munge, ["slurmctld", "-D"], ["slurmd", "-D"]):
            stack.enter_context(_running(command, environment, folder))
        _wait(environment, folder)
        try:
            yield environment
        finally:
            _cancel(environment)


def _ports():
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


@contextlib.contextmanager
def _running(command, environment, folder):
    with open(folder / f"{command[0]}.out", "wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _cancel(environment):
    """Ends the jobs that a failed test left."""
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        subprocess.run(["scancel", "--user", getpass.getuser()], env=environment)
        left = subprocess.run(["squeue", "-h"], env=environment, capture_output=True, text=True)
        if not left.stdout.strip():
            return
        time.sleep(1)


def _wait(environment, folder):
    """Until the node is idle."""
    ends = time.monotonic() + 120
    while time.monotonic() < ends:
        asked = subprocess.run(["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, text=True)
        if asked.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in folder.glob("*.out"))
    raise AssertionError(f"Slurm does not come up: {asked.stdout} {asked.stderr}\n{logs}")

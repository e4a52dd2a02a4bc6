"""A real sshd on loopback, whose users reach the cluster, and a laptop that has nothing but ssh to reach it."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster import Cluster
from hostile import HOSTILE
from runs import REPOSITORY

from llama31.settings import names

SSHD = "/usr/sbin/sshd"  # it must be called by its whole path
PRIVILEGE_SEPARATION = Path("/run/sshd")  # a directory that sshd cannot do without
TOOLS = ("bash", "dirname", "env", "readlink", "sh", "wc")
COVER = 'while [ "$1" != -- ]; do mount -t tmpfs none "$1" || exit; shift; done; shift; exec "$@"'
DEADLINE = 60  # seconds for a command


def keygen(file: Path) -> str:
    """Makes a key without a password; gives its public half."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file], check=True, stdin=subprocess.DEVNULL)
    return file.with_suffix(".pub").read_text()


def free_ports(count: int) -> list[int]:
    """Return ports that are not in use."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def link_tools(directory: Path, *tools: str) -> Path:
    """Create a directory for PATH with only these tools."""
    directory.mkdir(parents=True)
    for tool in tools:
        (directory / tool).symlink_to(shutil.which(tool) or f"/bin/{tool}")
    return directory


class LoginNode:
    """sshd in front of a cluster. At `port` a user has Slurm on the PATH; at `bare_port` not.

    Its users have a home of their own, whose profile, as some sites' do, prints something and sets the PATH; and what
    Slurm's commands would take for options.
    """

    def __init__(self, directory: Path, cluster: Cluster):
        self.directory = directory
        self.port, self.bare_port, self.closed_port = free_ports(3)
        self.host_key, self.user_key = directory / "host_key", directory / "user_key"
        self.public_host_key = keygen(self.host_key)
        authorized = directory / "authorized_keys"
        authorized.write_text(keygen(self.user_key))
        self._home("home", f"{cluster.bin}:/usr/local/bin:/usr/bin:/bin")
        self._home("bare_home", str(link_tools(directory / "bare_bin", "bash", "sh", "mkdir", "mv", "rm", "rmdir")))
        self.config = directory / "sshd_config"
        self.config.write_text(
            f"""ListenAddress 127.0.0.1:{self.port}
ListenAddress 127.0.0.1:{self.bare_port}
HostKey {self.host_key}
PidFile {directory / "sshd.pid"}
AuthorizedKeysFile {authorized}
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowUsers {getpass.getuser()}
Match LocalPort {self.bare_port}
    SetEnv HOME={directory / "bare_home"}
Match LocalPort {self.port}
    SetEnv HOME={directory / "home"} SLURM_CONF={cluster.directory / "slurm.conf"}
"""
        )

    def _home(self, name: str, path: str) -> None:
        home = self.directory / name
        home.mkdir()
        (home / ".bashrc").write_text("echo 4711\n")
        profile = ["echo Welcome!", "echo 42", "echo maintenance on Monday >&2", f"PATH={path}"]
        profile += [f"export {name}={value}" for name, value in HOSTILE.items()]
        (home / ".bash_profile").write_text("\n".join(profile) + "\n")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Runs it in the foreground of a process of ours, which is ended by its id."""
        PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        with subprocess.Popen(
            [SSHD, "-D", "-e", "-f", self.config], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        ) as daemon:
            try:
                said = [daemon.stderr.readline() for _ in range(2)] if daemon.stderr else []
                assert all(line.startswith("Server listening on 127.0.0.1") for line in said), said
                yield
            finally:
                daemon.terminate()  # only the daemon: each connection has its own process


class Laptop:
    """A machine with ssh and without Slurm: its PATH has a few tools, and `hidden` directories are not there.

    ssh reads the settings that a user would have in ~/.ssh/config, and nothing of this machine's own.
    """

    def __init__(self, directory: Path, login: LoginNode):
        self.bin = link_tools(directory / "bin", *TOOLS)
        self.venv = directory / "venv"  # means nothing on the cluster
        python = link_tools(self.venv / "bin") / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        self.calls = directory / "calls"
        self.calls.touch()
        config, known = directory / "config", directory / "known_hosts"
        known.write_text(f"login {login.public_host_key}")
        usual = {
            "Port": login.port,
            "IdentityFile": login.user_key,
            "UserKnownHostsFile": known,
            "GlobalKnownHostsFile": "/dev/null",
            "HostName": "127.0.0.1",
            "HostKeyAlias": "login",
            "User": "no-such-user",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
        }
        aliases: dict[str, dict[str, object]] = {
            "login": {},
            "bare": {"Port": login.bare_port},
            "closed": {"Port": login.closed_port},
            "keyless": {"IdentityFile": "/nonexistent"},
            "stranger": {"UserKnownHostsFile": "/dev/null"},
        }
        for alias, differs in aliases.items():
            lines = [f"Host {alias}", *(f"{key} {value}" for key, value in {**usual, **differs}.items())]
            with config.open("a") as file:
                file.write("\n".join(lines) + "\n")
        ssh = self.bin / "ssh"
        ssh.write_text(
            f"""#!/bin/sh
echo "$*" >>"{self.calls}"
if [ "$(wc -l <"{self.calls}")" = "$LOST" ]; then exit 255; fi  # the network was away for the call of this number
exec "{shutil.which("ssh")}" -F "{config}" "$@"
"""
        )
        for script in (python, ssh):
            script.chmod(0o755)

    def submit(
        self, settings: Mapping[str, str], *options: str, hidden: Sequence[Path] = (), **exported: str
    ) -> subprocess.CompletedProcess[str]:
        """run_llama31.sh; with `hidden` directories in a mount namespace where something empty covers them."""
        given = [f"{name}={value}" for name, value in settings.items()]
        covered = ["unshare", "--mount", "sh", "-c", COVER, "sh", *hidden, "--"] if hidden else []
        elsewhere = {*names(), "SLURM_CONF"}
        ours = {name: value for name, value in os.environ.items() if name not in elsewhere}
        return subprocess.run(
            [*covered, "env", f"PATH={self.bin}", "bash", REPOSITORY / "run_llama31.sh", *options, *given],
            env={**ours, "LLAMA31_VENV": str(self.venv), **exported},
            stdin=subprocess.DEVNULL,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

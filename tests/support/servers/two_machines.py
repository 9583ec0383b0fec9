"""Two simulated nodes: network namespaces on a bridge, each with its own address.

They share the disk, as the nodes of a cluster do. Needs root and `ip`.
"""

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NAMES = ("a", "b")
_NUMBER = itertools.count()
_ETC = ("hosts", "resolv.conf")
OUTSIDE = "10.77.0.254"
"""Address of this machine on the bridge."""


def why_not() -> str:
    """Return why nodes cannot be simulated here; empty if they can."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "no ip, unshare: apt-get install iproute2 util-linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    probe = f"irudimen-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.decode().strip()}"
    _ip("netns", "del", probe)
    return ""


@dataclass(frozen=True)
class Machine:
    """One simulated node."""

    namespace: str
    address: str
    name: str
    etc: Path
    """Folder with its versions of some files of /etc."""

    def command(self, *words: str) -> list[str]:
        """Return a command line that runs on this node, with its name as host name."""
        # Not `ip netns exec`, which hides /sys/fs/cgroup from SLURM's daemon.
        own = "".join(f"mount --bind {self.etc}/{name} /etc/{name} && " for name in _ETC)
        shell = f'{own} hostname {self.name} && exec "$@"'
        return ["nsenter", f"--net=/run/netns/{self.namespace}", "unshare", "--uts", "--mount",
                "sh", "-c", shell, "sh", *words]  # fmt: skip

    def cut_off(self) -> None:
        """Cut the network silently."""
        _ip("-n", self.namespace, "link", "set", "eth0", "down")


@contextlib.contextmanager
def machines() -> Iterator[tuple[Machine, Machine]]:
    """Create two nodes; all their processes are killed at the end."""
    tag = f"{os.getpid() % 10_000}{next(_NUMBER)}"  # names have at most 15 characters
    bridge = f"irb{tag}"
    places = {name: f"10.77.0.{number}" for number, name in enumerate(NAMES, start=1)}
    places[socket.gethostname().partition(".")[0]] = OUTSIDE
    with contextlib.ExitStack() as stack:
        etc = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        names = "".join(f"{address} {name}\n" for name, address in places.items())
        (etc / "hosts").write_text("127.0.0.1 localhost\n" + names)
        # Without a name server, lookups fail immediately instead of timing out.
        (etc / "resolv.conf").write_text("nameserver 127.0.0.1\noptions attempts:1\n")
        found = [Machine(f"ir{tag}{name}", places[name], name, etc) for name in NAMES]
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{OUTSIDE}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for one in found:
            _ip("netns", "add", one.namespace)
            stack.callback(_ip, "netns", "del", one.namespace)
            stack.callback(_kill_all, one.namespace)
            outside = f"{one.namespace}o"
            _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns",
                one.namespace)  # fmt: skip
            stack.callback(_ip, "link", "del", outside)
            _ip("link", "set", outside, "master", bridge, "up")
            _ip("-n", one.namespace, "addr", "add", f"{one.address}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", one.namespace, "link", "set", device, "up")
        yield found[0], found[1]


def processes_on(machine: Machine) -> list[int]:
    """Return the processes on a node."""
    told = subprocess.run(["ip", "netns", "pids", machine.namespace], capture_output=True,
                          text=True, check=False)  # fmt: skip
    return [int(word) for word in told.stdout.split()]


def _kill_all(namespace: str) -> None:
    told = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True,
                          check=False)  # fmt: skip
    subprocess.run(["kill", "-9", *told.stdout.split()], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)

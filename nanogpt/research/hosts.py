"""Two hosts on this machine: Linux network namespaces, each with an address and a core of its own, and a link between.

Needs root and the program `ip`, and `tc` for a link of limited rate. Sources: ip-netns(8), tc-tbf(8).
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from nanogpt.runtime.errors import UserError

INTERFACE = "eth0"  # of each host, to the other one
# where Linux keeps them is not on every user's path
IP, TC = (shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") for name in ("ip", "tc"))
ADDRESSES = "10.213.7.1", "10.213.7.2"
PORT = 29400


@dataclass(frozen=True)
class Host:
    """A namespace; `prefix` are the words before a command that is to run in it, on its core."""

    name: str
    address: str
    prefix: tuple[str, ...]

    def torchrun(self, *flags: str) -> list[str]:
        """`torchrun` with one process on this host, which meets the others at the first host."""
        # torchrun would look for the name of the machine, which both hosts share
        first = int(self.address == ADDRESSES[0])
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:{PORT}", "--rdzv-id", "hosts"]
        seconds = "last_call_timeout=2,keep_alive_interval=1"  # until a host that is silent counts as lost
        meeting += ["--rdzv-conf", f"is_host={first},{seconds}", "--local-addr", self.address]
        interface = f"GLOO_SOCKET_IFNAME={INTERFACE}"
        return [*self.prefix, "env", interface, "torchrun", "--nproc-per-node", "1", *meeting, *flags]

    def sent_bytes(self) -> int:
        """Bytes that have gone out on the link since it was made."""
        return int(_output(*self.prefix, "cat", f"/sys/class/net/{INTERFACE}/statistics/tx_bytes"))

    def cut(self) -> None:
        """Take the link away: what is sent gets no answer any more, not even a refusal."""
        _output(IP, "-n", self.name, "link", "set", INTERFACE, "down")


def missing_for_hosts() -> str | None:
    """Name what two hosts need and this machine lacks; None if nothing is missing."""
    if not (IP and TC and shutil.which("taskset")):
        return "the programs ip, tc and taskset"
    try:
        _output(IP, "netns", "add", f"probe-{os.getpid()}")
        _output(IP, "netns", "delete", f"probe-{os.getpid()}")
    except UserError:
        return "the right to make network namespaces (root)"
    return None


@contextlib.contextmanager
def two_hosts(mbit_per_s: int | None = None) -> Iterator[tuple[Host, Host]]:
    """Make two hosts in the block, with a link of `mbit_per_s` in either direction, or as fast as it is.

    Raises UserError where that is not possible here.
    """
    if missing := missing_for_hosts():
        raise UserError(f"two hosts cannot be made here: {missing} are missing")
    cores = sorted(os.sched_getaffinity(0))
    names = [f"nanogpt-{os.getpid()}-{i}" for i in range(2)]
    with contextlib.ExitStack() as stack:
        for name in names:
            _output(IP, "netns", "add", name)
            stack.callback(_output, IP, "netns", "delete", name)
        peer = ["peer", "name", INTERFACE, "netns", names[1]]
        _output(IP, "link", "add", INTERFACE, "netns", names[0], "type", "veth", *peer)
        for name, address in zip(names, ADDRESSES, strict=True):
            _output(IP, "-n", name, "address", "add", f"{address}/24", "dev", INTERFACE)
            for interface in ("lo", INTERFACE):
                _output(IP, "-n", name, "link", "set", interface, "up")
            if mbit_per_s:
                shape = ["tbf", "rate", f"{mbit_per_s}mbit", "burst", "256kb", "latency", "100ms"]
                _output(IP, "netns", "exec", name, TC, "qdisc", "add", "dev", INTERFACE, "root", *shape)
        yield tuple(
            Host(name, address, (IP, "netns", "exec", name, "taskset", "-c", str(cores[i % len(cores)])))
            for i, (name, address) in enumerate(zip(names, ADDRESSES, strict=True))
        )


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout

"""Network namespaces as machines, joined by a bridge, or by slow lines that lose packets. It needs the right to both.

A kernel may lack `netem`. The slow line of a machine is therefore a TUN device whose packets another process passes on
later, but for those that it loses.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkProcess

NETWORK = "10.213.8"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
PREFIX = "gradwatch-simulated-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What each packet meets between two machines: seconds on its way, and the share that is lost."""

    seconds: float
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A network namespace; without a name it is this machine itself."""

    name: str = ""
    address: str = "127.0.0.1"

    def enter(self) -> None:
        """Let this thread, and those that it begins, be on the machine."""
        if self.name:
            _enter(f"/run/netns/{self.name}")


@contextlib.contextmanager
def machines(count: int, line: Line | None = None) -> Iterator[list[Machine]]:
    """So many machines that reach each other.

    Raises:
        OSError, CalledProcessError: this system has no network namespaces, or does not permit them.
    """
    found = [Machine(name=f"{PREFIX}{os.getpid()}-{at}", address=f"{NETWORK}.{at + 1}") for at in range(count)]
    switch = f"{PREFIX}{os.getpid()}-switch"
    try:
        for machine in found:
            _ip("netns", "add", machine.name)
            _ip("-n", machine.name, "link", "set", "lo", "up")
        if line is None:
            _bridge(switch, found)
            yield found
        else:
            devices = [_slow_device(machine) for machine in found]
            passing = ForkProcess(target=pass_on, args=(devices, line), daemon=True)
            passing.start()
            for device in devices:
                os.close(device)
            yield found
            passing.terminate()
    finally:
        for name in (switch, *(machine.name for machine in found)):  # its devices go with it
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _enter(namespace: str) -> None:
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"no way into {namespace}")
    finally:
        os.close(descriptor)


def _bridge(switch: str, machines: Sequence[Machine]) -> None:
    _ip("netns", "add", switch)
    _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
    _ip("-n", switch, "link", "set", "bridge", "up")
    for at, machine in enumerate(machines):
        end = f"port{at}"
        peer = ["type", "veth", "peer", "name", end, "netns", switch]
        _ip("link", "add", "cable", "netns", machine.name, *peer)
        _ip("-n", switch, "link", "set", end, "master", "bridge", "up")
        _ip("-n", machine.name, "address", "add", f"{machine.address}/24", "dev", "cable")
        _ip("-n", machine.name, "link", "set", "cable", "up")


def _slow_device(machine: Machine) -> int:
    """Both ends of the machine's line: its device, and the descriptor by which its packets come and go."""
    here = f"/proc/{os.getpid()}/ns/net"
    home = os.open(here, os.O_RDONLY)
    try:
        machine.enter()
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", b"line", IFF_TUN | IFF_NO_PI))
    finally:
        _enter(f"/proc/self/fd/{home}")
        os.close(home)
    _ip("-n", machine.name, "address", "add", f"{machine.address}/24", "dev", "line")
    _ip("-n", machine.name, "link", "set", "line", "up")
    return device


def pass_on(devices: Sequence[int], line: Line) -> None:
    """Pass each packet on to the machine with its address, later, but for a share that is lost."""
    drawn = random.Random(0)
    late: list[tuple[float, int, int, bytes]] = []
    number = 0
    while True:
        wait = max(0.0, late[0][0] - time.monotonic()) if late else 1.0
        for device in select.select(devices, [], [], wait)[0]:
            packet = os.read(device, 65536)
            to = packet[19] - 1  # the last byte of the address it is for
            if packet[0] >> 4 == 4 and 0 <= to < len(devices) and drawn.random() >= line.loss:
                number += 1
                heapq.heappush(late, (time.monotonic() + line.seconds, number, devices[to], packet))
        while late and late[0][0] <= time.monotonic():
            _, _, device, packet = heapq.heappop(late)
            with contextlib.suppress(BlockingIOError):  # its queue is full, which is a loss, too
                os.write(device, packet)

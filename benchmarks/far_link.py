"""A slow line that loses packets, for a kernel without `netem`: a network device whose packets this process reflects.

What is sent to `FAR` arrives on this machine some time later, as if it came from there, and so does the answer. It
needs the right to make network devices.
"""

from __future__ import annotations

import fcntl
import heapq
import multiprocessing
import os
import random
import select
import struct
import subprocess
import time

NEAR, FAR = "10.213.9.1", "10.213.9.2"
DEVICE = "gradwatchfar"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def open_line(seconds: float, loss: float) -> None:
    """Begin to reflect in a process of its own, with which the device ends."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "address", "add", f"{NEAR}/24", "dev", DEVICE], check=True)
    subprocess.run(["ip", "link", "set", DEVICE, "up"], check=True)
    forks = multiprocessing.get_context("fork")
    forks.Process(target=reflect, args=(descriptor, seconds, loss), daemon=True).start()
    os.close(descriptor)


def reflect(descriptor: int, seconds: float, loss: float) -> None:
    """Send each packet back after so many seconds, with its addresses exchanged, but for a share that is lost."""
    drawn = random.Random(0)
    late: list[tuple[float, int, bytes]] = []
    number = 0
    while True:
        wait = max(0.0, late[0][0] - time.monotonic()) if late else 1.0
        if select.select([descriptor], [], [], wait)[0]:
            packet = os.read(descriptor, 65536)
            if packet[0] >> 4 == 4 and drawn.random() >= loss:
                number += 1
                back = packet[:12] + packet[16:20] + packet[12:16] + packet[20:]  # leaves the checksums right
                heapq.heappush(late, (time.monotonic() + seconds, number, back))
        while late and late[0][0] <= time.monotonic():
            os.write(descriptor, heapq.heappop(late)[2])

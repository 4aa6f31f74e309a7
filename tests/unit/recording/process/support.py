"""What the tests of both ends of the recorder's process share: a link without a process, and steps in numbers."""

import os

import numpy as np

from gradwatch.errors import RecorderProcessFailed
from gradwatch.record import ParameterInfo
from gradwatch.recording.process.channel import Channel
from gradwatch.recording.process.messages import encode, encode_step, plain_infos
from gradwatch.recording.process.ring import HEADER_BYTES, Ring, open_memory
from gradwatch.recording.records import LateNumbers, StepNumbers

INFOS = (ParameterInfo(name="w", shape=(3,)), ParameterInfo(name="b", shape=()))
FACTS = {
    "meta": {"model": "Linear"},
    "settings": {"total_steps": "9"},
    "capacity": 100,
    "at_once": False,
    "tensorboard": False,
    "several": False,
    "level": 30,
    "destinations": {"to": [], "notify": [], "notify_link": None, "script_run": {}},
    "world_size": 1,
    "office": None,
}


def channels():
    """The two ends of a channel."""
    (here, there_out), (there, here_out) = os.pipe(), os.pipe()
    return Channel(here, here_out), Channel(there, there_out)


class RingAndChannel:
    """A link whose other end is in this process: the messages in `ring`, the lines in `there`."""

    def __init__(self, folder, room=4096, attempt=0):
        fd = open_memory(HEADER_BYTES + room, folder)
        self._ring, self.ring = Ring(fd), Ring(fd)
        os.close(fd)
        self.channel, self.there = channels()
        self.attempt = attempt
        self.office = None
        self.is_filling = False

    def write(self, message):
        return self._ring.write(message)

    def end_of_process(self):
        return RecorderProcessFailed("it ended")

    def close(self):
        self.channel.close()
        self.there.close()

    def messages(self):
        """What has come through the ring so far."""
        found = []
        while (message := self.ring.read()) is not None:
            found.append(bytes(message))
        return found


def numbers(step, norm=1.0, loss=None):
    """A step of `INFOS` whose two gradients have these norms."""
    stats = {
        name: np.array(column, np.float64)
        for name, column in {"norm": [norm, 0.5], "abs_max": [norm, 0.5], "nonfinite": [0, 0], "zeros": [1, 0]}.items()
    }
    late = LateNumbers(loss=loss, clip_fault=None, clippings=())
    return StepNumbers(
        step=step,
        wall_time=1e9 + step,
        stats=stats,
        with_gradient=None,
        learning_rates=(0.1,),
        loss_scale=None,
        skipped=False,
        late=late,
    )


def told(kind, *values):
    """A message as the ring gives it out."""
    return b"".join(bytes(part) for part in encode(kind, *values))


def step(kind, *arguments, optimizer="0", settled=(), **more):
    """A message with the numbers of a step."""
    return b"".join(bytes(part) for part in encode_step(kind, optimizer, numbers(*arguments, **more), settled))


def admitted(optimizer="0", first_step=0):
    """The messages that come before an optimizer's first step."""
    return [
        told("infos", optimizer, plain_infos(INFOS), "11"),
        told("admit", optimizer, "SGD", {"lr": 0.1}, first_step, None, 0),
    ]

"""A training by several processes: what each has of a step, brought together where the run is written.

Nobody waits for it. Each process measures what it holds and leaves that in the store that
torch.distributed keeps anyway (`Mailbox`); the recorder's thread of rank 0 takes it from there and makes
one record of it (`RankGatherer`). No collective is made, so a process that is slow, has ended or is dead
holds up nobody.
"""

from gradwatch.distributed.gather import RankGatherer
from gradwatch.distributed.mailbox import Mailbox, rank_and_world_size
from gradwatch.distributed.messages import Joined, LocalStep, Share
from gradwatch.distributed.sender import NullSink, RankSender

__all__ = [
    "Joined",
    "LocalStep",
    "Mailbox",
    "NullSink",
    "RankGatherer",
    "RankSender",
    "Share",
    "rank_and_world_size",
]

"""A training by several processes: what each has of a step, brought together where the run is written.

Nobody waits for it. Each process measures what it holds and leaves that in the store that
torch.distributed keeps anyway (`Post`); the recorder's thread of rank 0 takes it from there and makes
one record of it (`Team`). No collective is made, so a process that is slow, has ended or is dead
holds up nobody.
"""

from gradwatch.distributed.gather import Team
from gradwatch.distributed.mailbox import Post, place
from gradwatch.distributed.messages import Joined, LocalStep, Share
from gradwatch.distributed.sender import Outbox, Quiet

__all__ = ["Joined", "LocalStep", "Outbox", "Post", "Quiet", "Share", "Team", "place"]

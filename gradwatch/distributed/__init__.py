"""Training in several processes: rank 0 gathers what every rank measured and writes one run.

Nothing blocks the training. Each rank measures the gradients it holds and leaves the numbers in the key-value store
that torch.distributed already runs (`Mailbox`). The recorder's thread in rank 0 reads them and makes one record of each
step (`RankGatherer`). With many ranks the first rank of each node combines the messages of its neighbours
(`SubtreeRelay`), and the nodes reach rank 0 by a tree (`RankTree`). No collective is used, so a rank that is slow,
finished or dead delays no other rank.

With ``ranks="collective"`` the ranks add up their numbers by all-reduces (`RankCollective`) as long as all of them take
part, and go on by messages from there.
"""

from typing import TYPE_CHECKING

from gradwatch.late import late_names

if TYPE_CHECKING:
    from gradwatch.distributed.agreement import agree
    from gradwatch.distributed.collective import RankCollective
    from gradwatch.distributed.gather import GatheredStep, RankGatherer
    from gradwatch.distributed.inbox import Names
    from gradwatch.distributed.mailbox import Mailbox, Rank0NotAttached
    from gradwatch.distributed.messages import JoinedParts, LocalStep
    from gradwatch.distributed.node_box import sweep_nodes
    from gradwatch.distributed.office import Address, open_office, reach_office
    from gradwatch.distributed.relay import SubtreeRelay
    from gradwatch.distributed.tree import RankTree
    from gradwatch.distributed.world import ParameterPart, rank_and_world_size
else:
    __getattr__, __dir__ = late_names(
        __name__,
        {
            "Address": "office",
            "GatheredStep": "gather",
            "JoinedParts": "messages",
            "LocalStep": "messages",
            "Mailbox": "mailbox",
            "Names": "inbox",
            "ParameterPart": "world",
            "Rank0NotAttached": "mailbox",
            "RankCollective": "collective",
            "RankGatherer": "gather",
            "RankTree": "tree",
            "SubtreeRelay": "relay",
            "agree": "agreement",
            "open_office": "office",
            "rank_and_world_size": "world",
            "reach_office": "office",
            "sweep_nodes": "node_box",
        },
    )

__all__ = [
    "Address",
    "GatheredStep",
    "JoinedParts",
    "LocalStep",
    "Mailbox",
    "Names",
    "ParameterPart",
    "Rank0NotAttached",
    "RankCollective",
    "RankGatherer",
    "RankTree",
    "SubtreeRelay",
    "agree",
    "open_office",
    "rank_and_world_size",
    "reach_office",
    "sweep_nodes",
]

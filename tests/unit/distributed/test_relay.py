"""Steps that reach rank 0 through a tree of ranks are those of all ranks; a plain sum over the ranks is the oracle."""

import collections
import copy
import itertools
import math

import numpy as np
import pytest
import torch.distributed as dist
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradwatch.distributed import (
    JoinedParts,
    LocalStep,
    Mailbox,
    ParameterPart,
    RankGatherer,
    RankTree,
    SubtreeRelay,
    gather,
    mailbox,
)
from gradwatch.distributed.messages import ABSENT, Ended, pack
from gradwatch.record import STATS, ParameterInfo

_worlds = itertools.count()


@pytest.fixture
def store(monkeypatch):
    for name in ("FIRST_PATIENCE", "PATIENCE", "LAST_PATIENCE"):
        monkeypatch.setattr(gather, name, 0.05)
    monkeypatch.setattr(gather, "PAUSE", 0.001)
    monkeypatch.setattr(mailbox, "SELDOM", 0.0)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class World:
    """All ranks of a training, as they would be in processes of their own."""

    def __init__(self, tree):
        self.tree = tree
        mailbox._recording_numbers = itertools.count(next(_worlds))
        box = Mailbox(0)
        self.boxes = [copy.copy(box) for _ in range(tree.world_size)]
        for rank, one in enumerate(self.boxes):
            one.rank, one._received, one._asked, one._in_store = rank, {}, {}, collections.deque()
        self.root = RankGatherer(self.boxes[0], tree.world_size, tree)
        inner = [rank for rank in range(1, tree.world_size) if tree.children(rank)]
        self.relays = {rank: SubtreeRelay(self.boxes[rank], tree, rank) for rank in inner}
        self.own = {}  # steps of rank 0, which are gathered when all others have sent theirs

    def give(self, rank, *items):
        """A rank has these items."""
        for item in items:
            if rank in self.relays and self.relays[rank].is_open:
                self.relays[rank].add(item)
            elif rank:
                self.boxes[rank].send(pack([item]))
            elif isinstance(item, JoinedParts):
                self.root.join(0, item)
            else:
                self.own[item.number] = item

    def relay(self):
        """Let every relay send what it has, those far from rank 0 first."""
        for rank in sorted(self.relays, key=self.tree.depth, reverse=True):
            if self.relays[rank].is_open and (items := self.relays[rank].collect()):
                self.boxes[rank].send(pack(items))

    def gather(self, number):
        self.relay()
        return self.root.gather(self.own[number])


def joined(named_parts):
    parts = [ParameterPart(info=ParameterInfo(name=name, shape=(9,)), part=part) for name, part in named_parts]
    return JoinedParts("0", 0, parts)


def statistics_of(values):
    if values is None:
        return [ABSENT, np.nan, np.nan, np.nan]
    with np.errstate(invalid="ignore"):
        return [
            np.linalg.norm(values),
            np.abs(values).max(initial=0.0),
            (~np.isfinite(values)).sum(),
            (values == 0).sum(),
        ]


def local(gradients, number=0, **more):
    table = np.array([statistics_of(values) for values in gradients], np.float32).reshape(len(gradients), 4).T
    return LocalStep(optimizer="0", number=number, stats=STATS, table=table, **more)


# ------------------------------------------------------------------------ any world, any part missing


def shards_of(pattern, world_size, node):
    """Which shard of how many each rank holds, with its name; None if it holds nothing."""
    half = max(1, world_size // 2)
    divisors = [n for n in range(1, world_size + 1) if world_size % n == 0]
    shards = divisors[len(divisors) // 2]
    return {
        "copies": [(0, 1, "")] * world_size,
        "sharded": [(rank, world_size, f"{rank}") for rank in range(world_size)],
        "near copies": [
            (rank // (world_size // shards), shards, f"{rank // (world_size // shards)},-")
            for rank in range(world_size)
        ],
        "far copies": [(rank % shards, shards, f"-,{rank % shards}") for rank in range(world_size)],
        "first stage": [(rank, half, f"{rank}") if rank < half else None for rank in range(world_size)],
        "last rank": [None] * (world_size - 1) + [(0, 1, "")],
    }[pattern]


PATTERNS = ("copies", "sharded", "near copies", "far copies", "first stage", "last rank")
SPECIAL = (np.nan, np.inf, 0.0, 1e30)


def drawn_gradient(random):
    """A gradient with now and then a special value, and now and then none at all."""
    values = random.normal(size=24) * 10.0 ** random.integers(-4, 4)
    if random.random() < 0.3:
        values[random.integers(24)] = SPECIAL[random.integers(len(SPECIAL))]
    if random.random() < 0.1:
        values[:] = 0.0
    return None if random.random() < 0.1 else values


def plain_sum(holdings, gradients, heard):
    """The statistics of each parameter by a loop over ranks; None where a part of one did not arrive."""
    found = {}
    for name, shards in holdings.items():
        every = {one for one in shards if one is not None}
        parts = {shards[rank] for rank in heard if shards[rank] is not None}
        if parts != every:
            return None
        known = [np.float32(statistics_of(cut(gradients[name], *part[:2]))) for part in parts]
        known = np.array([row for row in known if row[0] != ABSENT], np.float64).reshape(-1, 4)
        if len(known) == 0:
            found[name] = [np.nan] * 4
        else:
            with np.errstate(invalid="ignore"):
                found[name] = [
                    math.sqrt((known[:, 0] ** 2).sum()),
                    known[:, 1].max(),
                    known[:, 2].sum(),
                    known[:, 3].sum(),
                ]
    return found


def cut(values, shard, shards):
    return None if values is None else np.array_split(values, shards)[shard]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    tree=st.builds(RankTree, world_size=st.integers(2, 26), node=st.integers(2, 5), width=st.integers(2, 3)),
    patterns=st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=4),
    loses=st.sampled_from([0.0, 0.0, 0.02, 0.1]),
)
def test_a_step_through_a_tree_is_the_sum_over_all_ranks(store, seed, tree, patterns, loses):
    random = np.random.default_rng(seed)
    world, size, steps = World(tree), tree.world_size, 4
    holdings = {f"p{at}": shards_of(pattern, size, tree.node) for at, pattern in enumerate(patterns)}
    gradients = [{name: drawn_gradient(random) for name in holdings} for _ in range(steps)]
    norms = random.random((steps, size)).astype(np.float32)
    # A step that a rank has passed is not waited for, so the last one is lost nowhere.
    heard = random.random((steps, size)) >= loses
    heard[:, 0], heard[-1] = True, True
    for rank in range(size):
        mine = [(name, shards[rank]) for name, shards in holdings.items() if shards[rank] is not None]
        random.shuffle(mine)
        world.give(rank, joined([(name, part[2]) for name, part in mine]))
        for number in range(steps):
            parts = [cut(gradients[number][name], *part[:2]) for name, part in mine]
            if heard[number, rank]:
                world.give(rank, local(parts, number, norm=float(norms[number, rank]), nonfinite=0.0, loss=float(rank)))
    overlap = False
    for number in range(steps):
        found = world.gather(number)
        overlap = overlap or world.boxes[0].announced("flat") is not None
        ranks = np.flatnonzero(heard[number]).tolist()
        expected = plain_sum(holdings, gradients[number], ranks)
        if found is None:  # without a part that is lost nothing is unknown, if sets of parts are nested
            assert expected is None or overlap or len(ranks) < size
            continue
        assert expected is not None, "a part of the norm would be a wrong norm"
        for row, stat in enumerate(STATS):
            table = dict(zip([info.name for info in found.infos], found.stats[stat], strict=True))
            for name, values in expected.items():
                np.testing.assert_allclose(table.get(name, np.nan), values[row], rtol=1e-5, err_msg=f"{stat} of {name}")
        np.testing.assert_array_equal(found.ranks.norm[ranks], norms[number, ranks])
        assert np.isnan(found.ranks.norm[~heard[number]]).all()
        assert (found.ranks.differing[ranks] == 0).all()
        assert found.loss == pytest.approx(np.mean(ranks))


# ------------------------------------------------------------------------ one thing at a time


def all_hold_copies(world):
    for rank in range(world.tree.world_size):
        world.give(rank, joined([("a", ""), ("b", "")]))


def send_everywhere(world, number, odd=None, gradients=([3.0], [4.0]), others=([3.0], [4.0])):
    """All ranks send the same step; of one the gradients are others."""
    for rank in range(world.tree.world_size):
        mine = others if rank == odd else gradients
        world.give(rank, local([np.array(values) for values in mine], number, norm=5.0, nonfinite=0.0))


NINE = RankTree(world_size=9, node=3, width=3)


@pytest.mark.parametrize("odd", [1, 3, 4, 8])
def test_of_copies_everywhere_the_odd_rank_is_named_and_its_value_is_not_taken(store, odd):
    world = World(NINE)
    all_hold_copies(world)
    send_everywhere(world, 0, odd, others=([3.0], [4.1]))
    found = world.gather(0)
    assert np.flatnonzero(found.ranks.differing).tolist() == [odd]
    assert found.ranks.differing[odd] == 1
    assert found.infos[int(found.ranks.differs_in[odd])].name == "b"
    np.testing.assert_allclose(found.stats["norm"], [3.0, 4.0])


def test_a_shard_that_differs_from_its_copies_on_other_nodes_names_the_ranks_of_its_node(store):
    world = World(NINE)
    for rank in range(9):
        world.give(rank, joined([("w", f"-,{rank % 3}")]))
        world.give(rank, local([np.array([1.5 if rank == 7 else 1.0])], norm=1.0, nonfinite=0.0))
    found = world.gather(0)
    assert np.flatnonzero(found.ranks.differing).tolist() == [6, 7, 8]
    np.testing.assert_allclose(found.stats["norm"], [math.sqrt(3)])


def test_shards_that_do_not_fit_into_nodes_are_read_from_every_rank_after_the_first_steps(store):
    """Nodes of two ranks, and three shards: a node has some parts of each other node and not all."""
    tree = RankTree(world_size=12, node=2, width=3)
    world = World(tree)
    for rank in range(12):
        world.give(rank, joined([("w", f"-,{rank % 3}")]))
    known = []
    for number in range(4):
        for rank in range(12):
            world.give(rank, local([np.array([2.0 + rank % 3])], number, norm=float(rank), nonfinite=0.0))
        found = world.gather(number)
        known.append(found is not None)
        if found is not None:
            np.testing.assert_allclose(found.stats["norm"], [math.sqrt(4 + 9 + 16)])
            assert found.ranks.norm.tolist() == list(range(12))
    assert known[-1]
    assert not any(relay.is_open for relay in world.relays.values())


@pytest.mark.parametrize("silent", [[6, 7, 8], [4], [3, 4, 5]])
def test_ranks_that_send_nothing_are_named_and_hold_up_nobody(store, silent, caplog):
    world = World(NINE)
    all_hold_copies(world)
    send_everywhere(world, 0)
    assert world.gather(0) is not None
    for rank in set(silent) & world.relays.keys():  # its process is gone
        del world.relays[rank]
    for number in (1, 2):
        for rank in set(range(9)) - set(silent):
            world.give(rank, local([np.array([3.0]), np.array([4.0])], number, norm=5.0, nonfinite=0.0))
    for _ in range(3):
        world.relay()
        gather.time.sleep(0.06)
    for number in (1, 2):
        found = world.gather(number)
        assert np.flatnonzero(np.isnan(found.ranks.norm)).tolist() == silent
        np.testing.assert_allclose(found.stats["norm"], [3.0, 4.0])
    assert caplog.text.count("(rank-silent)") == 1
    assert ("Rank 4 has" if silent == [4] else f"Ranks {silent[0]}-{silent[-1]} have") in caplog.text


def test_a_shard_on_a_silent_rank_makes_the_step_unknown(store):
    world = World(NINE)
    for rank in range(9):
        world.give(rank, joined([("w", f"{rank}")]))
        if rank != 7:
            world.give(rank, local([np.ones(1)], norm=1.0, nonfinite=0.0))
    assert world.gather(0) is None
    gather.time.sleep(0.06)
    for rank in range(9):
        world.give(rank, local([np.ones(1)], 1, norm=1.0, nonfinite=0.0))
    found = world.gather(1)
    np.testing.assert_allclose(found.stats["norm"], [3.0])


def test_what_a_rank_has_read_for_others_is_handed_over_when_it_ends(store):
    """Rank 3 ends after step 1; ranks 4 and 5 go on, and step 2 of rank 4 is with rank 3 already."""
    world = World(NINE)
    for rank in range(9):
        world.give(rank, joined([("w", f"{rank}")]))
        for number in (0, 1):
            world.give(rank, local([np.ones(1)], number, norm=1.0, nonfinite=0.0))
    world.give(4, local([np.ones(1)], 2, norm=4.0, nonfinite=0.0))
    world.relay()
    world.relays[3].add(Ended())
    items = [*world.relays[3].collect(), *world.relays[3].hand_over(), Ended()]
    world.boxes[3].send(pack(items))
    for number in (2, 3):
        for rank in set(range(9)) - {3, 4} | ({4} if number == 3 else set()):
            world.give(rank, local([np.ones(1)], number, norm=float(rank), nonfinite=0.0))
    for number in (0, 1):
        np.testing.assert_allclose(world.gather(number).stats["norm"], [3.0])
    for number in (2, 3):
        assert world.gather(number) is None, "rank 3 has a part and ended"


def test_copies_are_heard_on_when_the_rank_that_combined_them_has_ended(store):
    tree = RankTree(world_size=8, node=2, width=2)
    world = World(tree)
    all_hold_copies(world)
    send_everywhere(world, 0)
    world.relay()
    world.relays[4].add(Ended())
    world.boxes[4].send(pack([*world.relays[4].collect(), *world.relays[4].hand_over(), Ended()]))
    for number in (1, 2):
        for rank in set(range(8)) - {4}:
            world.give(rank, local([np.array([3.0]), np.array([4.0])], number, norm=float(rank), nonfinite=0.0))
    assert world.gather(0).ranks.norm.tolist() == [5.0] * 8
    for number in (1, 2):
        assert np.flatnonzero(np.isnan(world.gather(number).ranks.norm)).tolist() == [4]


def test_parameters_that_join_and_steps_from_before_are_told_apart(store):
    world = World(NINE)
    for rank in range(9):
        world.give(rank, joined([("a", f"{rank}")]))
        world.give(rank, local([np.ones(4)], 0, norm=2.0, nonfinite=0.0))
        more = ParameterPart(info=ParameterInfo(name="b", shape=(9,)), part=f"{rank}")
        world.give(rank, JoinedParts("0", 1, [more]))
        world.give(rank, local([np.ones(4), np.ones(1)], 1, norm=2.0, nonfinite=0.0))
    first, second = world.gather(0), world.gather(1)
    assert first.stats["norm"][0] == pytest.approx(6.0)
    assert first.present.tolist()[:1] == [True]
    assert not first.present[1:].any()
    assert second.stats["norm"].tolist() == pytest.approx([6.0, 3.0])


def test_weights_are_sampled_through_the_tree_if_all_ranks_sampled_them(store):
    world = World(NINE)
    for rank in range(9):
        world.give(rank, joined([("w", f"{rank}")]))
        for number in (0, 1):
            weights = None if number == 1 and rank == 5 else np.array([[2.0], [0.5]], np.float32)
            world.give(rank, local([np.ones(1)], number, norm=1.0, nonfinite=0.0, weights=weights))
    found = world.gather(0).weights
    np.testing.assert_allclose([found.weight_norm[0], found.update_norm[0]], [6.0, 1.5])
    assert world.gather(1).weights is None


def test_a_nan_is_of_the_rank_that_had_it(store):
    world = World(NINE)
    for rank in range(9):
        world.give(rank, joined([("w", "")]))
        bad = rank == 5
        own = {"norm": math.nan if bad else 1.0, "nonfinite": float(bad), "before_reduction": True}
        world.give(rank, local([np.array([np.nan])], **own, loss=math.nan if bad else 1.0))
    found = world.gather(0)
    assert found.ranks.not_finite() == [5]
    assert math.isnan(found.stats["norm"][0])
    assert found.stats["nonfinite"].tolist() == [1.0]
    assert math.isnan(found.loss)


def test_steps_that_are_not_recorded_leave_gaps_in_the_numbers(store):
    world = World(NINE)
    all_hold_copies(world)
    for number in (0, 10, 20):
        send_everywhere(world, number)
        world.relay()
    for number in (0, 10, 20):
        assert np.isfinite(world.gather(number).ranks.norm).all()


def test_a_step_that_the_combining_rank_itself_lacks_is_passed_on(store):
    world = World(NINE)
    all_hold_copies(world)
    for number in range(3):
        for rank in range(9):
            if (rank, number) != (3, 1):
                world.give(rank, local([np.array([3.0]), np.array([4.0])], number, norm=5.0, nonfinite=0.0))
    missing = [np.flatnonzero(np.isnan(world.gather(number).ranks.norm)).tolist() for number in range(3)]
    assert missing == [[], [3], []]

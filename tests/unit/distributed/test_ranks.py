"""Ranks in a recorded run: events, frames and the noise scale."""

from dataclasses import replace

import numpy as np
import pytest

from gradwatch import Run
from gradwatch.detect import Desync
from gradwatch.record import RANK_STATS, RankStats
from gradwatch.testing import replaced, steady, stream, write_run


def ranks_of(norms, before=1.0, **more):
    length = len(norms)
    zeros = {name: np.zeros(length, np.float32) for name in RANK_STATS}
    given = {name: np.array(values, np.float32) for name, values in more.items()}
    known = {"norm": np.array(norms, np.float32), "before_reduction": np.full(length, before, np.float32)}
    return RankStats(**zeros | known | given)


def with_ranks(records, rows):
    return [replace(record, ranks=ranks_of(row)) for record, row in zip(records, rows, strict=True)]


def leaving(steps, since, factor):
    """Four ranks; from step ``since`` on the third has ``factor`` times the norm of the others."""
    random = np.random.default_rng(0)
    norms = random.lognormal(0, 0.2, (steps, 4))
    norms[since:, 2] *= factor
    return with_ranks(stream(steady(steps)), norms)


def desyncs(records):
    detector = Desync()
    return [event for record in records for event in detector.update(record)]


@pytest.mark.parametrize("factor", [5.0, 0.2])
def test_a_rank_that_leaves_the_others_for_good_is_one_event(factor):
    (event,) = desyncs(leaving(900, 300, factor))
    assert (event.kind, event.severity, event.rank) == ("desync", "warning", 2)
    assert 299 + 180 <= event.step < 300 + 200


@pytest.mark.parametrize(("since", "factor"), [(900, 1.0), (0, 5.0), (300, 1.5)])
def test_ranks_that_scatter_or_always_differed_raise_nothing(since, factor):
    assert desyncs(leaving(900, since, factor)) == []


def test_single_batches_of_one_rank_raise_nothing():
    random = np.random.default_rng(0)
    norms = random.lognormal(0, 0.2, (900, 4))
    norms[random.random(900) < 0.3, 1] *= 10
    assert desyncs(with_ranks(stream(steady(900)), norms)) == []


def test_the_noise_scale_is_that_of_gradients_drawn_with_it(tmp_path):
    """Of G = 1 in each of 50 entries and noise of variance 4 in each: trace / |G|^2 = 200 / 50."""
    random = np.random.default_rng(0)
    gradients = 1 + 2 * random.normal(size=(3000, 8, 50))
    local_norms = np.linalg.norm(gradients, axis=2)
    total = np.linalg.norm(gradients.mean(axis=1), axis=1)
    run = Run(write_run(tmp_path / "run", with_ranks(stream(total.tolist()), local_norms)))
    assert run.noise_scale(smoothing=0.999).iloc[-1] == pytest.approx(4.0, rel=0.1)


def test_a_run_has_a_frame_and_a_summary_of_its_ranks(tmp_path):
    records = with_ranks(stream(replaced(steady(100), {60: 9.0})), [[1.0, 2.0, 3.0]] * 99 + [[1.0, np.nan, 3.0]])
    run = Run(write_run(tmp_path / "run", records))
    norms = run.ranks("norm")
    assert norms.shape == (100, 3)
    assert norms.iloc[0].tolist() == [1.0, 2.0, 3.0]
    assert norms.iloc[-1].isna().tolist() == [False, True, False]
    summary = run.summary()
    assert [(rank.rank, rank.steps, rank.median) for rank in summary.ranks] == [
        (0, 100, 1.0),
        (1, 99, 2.0),
        (2, 100, 3.0),
    ]


def test_a_run_of_one_process_has_no_ranks(tmp_path):
    run = Run(write_run(tmp_path / "run", stream(steady(10))))
    assert run.ranks("norm").empty
    assert run.summary().ranks == ()
    assert run.summary().noise_scale is None
    assert run.noise_scale().empty


def test_the_dominant_rank_needs_every_norm_from_before_the_reduction():
    assert ranks_of([1.0, 9.0, 2.0]).dominant_rank(3) == 1
    assert ranks_of([1.0, 9.0, 2.0]).dominant_rank(5) is None
    assert ranks_of([1.0, 9.0, 2.0], before=0.0).dominant_rank(3) is None
    assert ranks_of([1.0, np.nan, 9.0]).dominant_rank(3) == 2
    assert ranks_of([9.0]).dominant_rank(3) is None
    assert ranks_of([]).dominant_rank(3) is None
    assert ranks_of([1.0, 9.0]).dominant_rank(3) == 1

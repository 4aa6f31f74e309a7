"""The schema of the store. It is public: docs/store.md shows it.

Versions: 1, the first; 2 adds step.clip_fault; 3 adds event.until and event.origin; 4 adds crc to every table;
5 adds the table rank and event.rank. Newer stores of version 5 also have row_crc in every table, the table
detector_state and the row "rows" of meta. They keep the number 5, because older versions of gradwatch can read them.
6 adds the table optimizer_update, step.update_norm, step.weight_norm, and moved, momentum_cosine and weight_cosine
of table weight. 7 adds the table digest, 8 the table accumulation,
9 the table magnitude, 10 the table sentinel.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import NamedTuple

from gradwatch.record import (
    ACCUMULATION_STATS,
    MAGNITUDE_STATS,
    RANK_STATS,
    SAMPLED_STATS,
    SENTINEL_STATS,
    STATS,
    UPDATE_STATS,
    WEIGHT_STATS,
)

FILE_NAME = "gradwatch.db"
SCHEMA_VERSION = 10
CRC_SINCE = 4  # the first version with crc
RANKS_SINCE = 5  # the first version with the table rank
ROW_CRC_SINCE = 5  # the first version in which newer stores have row_crc
UPDATES_SINCE = 6  # the first version with the table optimizer_update; every store of it has row_crc
DIGESTS_SINCE = 7  # the first version with the table digest
ACCUMULATION_SINCE = 8  # the first version with the table accumulation
MAGNITUDES_SINCE = 9  # the first version with the table magnitude
SENTINELS_SINCE = 10  # the first version with the table sentinel
APPLICATION_ID = 0x67726164  # "grad", in the header of the file
PAGE_SIZE = 16384

SCHEMA = """\
create table meta (
    -- Facts about the run as a whole, as text.
    key   text primary key,
    value text,
    crc   integer,               -- checksum of the values; null, here and below: written before schema 4
    row_crc integer              -- checksum of the table's name, the id and crc; null, here and below: an older row
);
create table attempt (
    -- One row each time a process attached to the run: 0, 1, 2, ...
    attempt integer primary key,
    first_step integer not null, -- the step it began with
    started real not null,       -- seconds since the epoch
    ended   real,                -- null: still running, or killed
    reason  text,                -- how it ended: closed, exception, exit, signal, killed, fault
    pid     integer not null,    -- of the writing process
    host    text not null,
    process text,                -- when that process started, in its system's own units
    dropped integer not null default 0, -- steps lost because the disk did not take them in time
    crc     integer,
    row_crc integer
);
create table optimizer (
    -- One row per optimizer; its name is 0, 1, ... unless it was given one.
    name  text primary key,
    class text not null,         -- SGD, AdamW, ...
    settings text not null,      -- its defaults, as JSON
    crc   integer,
    row_crc integer
);
create table parameter (
    -- One row per parameter of an optimizer; position is the index in the blobs.
    optimizer text not null,
    position integer not null,
    name  text not null,
    shape text not null,         -- JSON list
    dtype text not null,
    crc   integer,
    row_crc integer,
    primary key (optimizer, position)
) without rowid;
create table step (
    -- One row per attempt to update the weights, in order of arrival; ids are 1, 2, 3, ... Of two rows
    -- with the same optimizer and step, the one of the later attempt counts.
    id integer primary key,
    step integer not null,       -- counted from 0
    optimizer text not null,
    attempt integer not null,
    wall_time real not null,     -- seconds since the epoch, when the step was made
    total_norm real,             -- L2 norm of all gradients of the optimizer, before clipping
    max_norm real,               -- threshold of clipping by norm; null: not clipped by norm
    norm_type real,              -- of that clipping; null: 2
    clip_value real,             -- threshold of clipping by value; null: not clipped by value
    clip_coef real,              -- factor by which clipping multiplied the gradients
    cut_entries integer,         -- entries cut by value clipping; null: not known or no such clipping
    nonfinite integer not null,  -- gradient entries that are NaN or infinite
    loss real,                   -- null: not logged
    learning_rate real,          -- of the first parameter group
    learning_rates text,         -- of every group as JSON; null: there is one
    loss_scale real,             -- of the GradScaler; null: none
    skipped integer not null,    -- 1: the update did not happen
    nan text,                    -- names of the columns that are NaN in this row; SQLite stores NaN as null
    clip_fault text,             -- why clipping did not work as intended; null: no fault is known
    update_norm real,            -- L2 norm of the update that the optimizer computed; null: not computed
    weight_norm real,            -- L2 norm of the same weights before the step; null: not computed
    parts integer,               -- sum of the tables with a row of this id; null: not known
                                 -- 1 layer, 2 weight, 4 rank, 8 optimizer_update, 16 accumulation, 32 magnitude,
                                 -- 64 sentinel
    crc integer,
    row_crc integer
);
create table layer (
    -- The gradients of the step with the same id, before clipping. A parameter without a gradient is NaN
    -- in every column; a gradient that contains a NaN has nonfinite > 0.
    id integer primary key,
    norm blob not null,          -- L2 norm
    abs_max blob,                -- largest magnitude
    nonfinite blob,              -- number of entries that are NaN or infinite
    zeros blob,                  -- number of entries that are exactly 0
    crc blob,                    -- uint32 checksums of the four blobs
    row_crc integer
);
create table weight (
    -- The weights at the step with the same id; sampled.
    id integer primary key,
    weight_norm blob not null,   -- L2 norm before the step
    update_norm blob not null,   -- L2 norm of the change that the step made
    moved blob,                  -- share of the entries that the step changed
    momentum_cosine blob,        -- cosine of the angle between the gradient and the optimizer's momentum
    weight_cosine blob,          -- cosine of the angle between the gradient and the weights before the step
    crc blob,                    -- uint32 checksums of the five blobs; of the first two in a row of schema 5
    row_crc integer
);
create table optimizer_update (
    -- The update of the step with the same id as the optimizer computes it, from its state after the step.
    id integer primary key,
    update_norm blob not null,   -- L2 norm of the update, weight decay included
    weight_norm blob not null,   -- L2 norm of the weights before the step
    rms_ratio blob,              -- sqrt(mean(g^2 / max(v, eps^2))) of the second moment v; null: there is none
    second_moment_norm blob,     -- L2 norm of sqrt(v); null: there is none
    crc blob,                    -- uint32 checksums of the four blobs
    row_crc integer
);
create table sentinel (
    -- The updates of a few parameters at the step with the same id, at which those of the others were not read. Blobs
    -- have a float32 for each of these parameters.
    id integer primary key,
    position blob not null,      -- of the parameter, ascending
    update_norm blob not null,   -- as in optimizer_update
    weight_norm blob not null,   -- as in optimizer_update
    rms_ratio blob,              -- as in optimizer_update
    second_moment_norm blob,     -- as in optimizer_update
    crc blob,                    -- uint32 checksums of the five blobs
    row_crc integer
);
create table rank (
    -- What each rank had at the step with the same id, in distributed training. Blobs have a float32
    -- for each rank, NaN for a rank that was not heard.
    id integer primary key,
    norm blob not null,          -- L2 norm of its gradient before the reduction over ranks, or of the part it held
    nonfinite blob not null,     -- entries of that gradient that are NaN or infinite
    differing blob not null,     -- parameters whose gradient differs from that of the other ranks and should not
    differs_in blob not null,    -- position of the first of them
    before_reduction blob not null, -- 1: norm was taken before the reduction, 0: of the part the rank held
    crc blob,                    -- uint32 checksums of the five blobs
    row_crc integer
);
create table accumulation (
    -- The gradient of the step with the same id while it was accumulated over micro-batches. Blobs have a float32 for
    -- each time it was read.
    id integer primary key,
    micro_batches blob not null, -- how many micro-batches the gradient held
    norm blob not null,          -- its L2 norm then, unscaled and before clipping
    crc blob,                    -- uint32 checksums of the two blobs
    row_crc integer
);
create table magnitude (
    -- How many entries of each gradient of the step with the same id have which magnitude; sampled. Bin 0 is below
    -- 2^-126, bin 1 reaches to 2^-42, bins 2 to 30 are two powers of two wide, up to 2^16; bin 31 is above, 32 is zero,
    -- 33 infinite, 34 NaN.
    id integer primary key,
    filled blob not null,        -- of each parameter: how many bins hold an entry; NaN: no gradient
    cells blob not null,         -- each of these bins x 65536 + the entries in it, parameter by parameter
    crc blob,                    -- uint32 checksums of the two blobs
    row_crc integer
);
create table digest (
    -- Some thousand rows of one optimizer in short, so that a long run is read fast. It is written with the last of
    -- them. It can be made again from the rows, which not all have one; a reader may ignore it.
    last_id integer primary key, -- of the last row
    optimizer text not null,
    steps  blob not null,        -- columns of table step: a line of JSON, then the arrays in it as bytes
    steps_crc integer not null,  -- CRC-32 of steps
    layers blob,                 -- of table layer the largest values, and a sketch of norms; null: none, or not alike
    layers_crc integer,          -- CRC-32 of layers
    crc    integer,              -- the blobs count in it by their own CRC-32
    row_crc integer
);
create table event (
    -- What the detectors found, in order; ids are 1, 2, 3, ... An event that lasts is one row, which is updated.
    id integer primary key,
    step integer not null,
    optimizer text not null,
    attempt integer not null,
    kind text not null,          -- spike, explosion, nonfinite, ...
    severity text not null,      -- info, warning, critical
    parameter text,              -- where it began; null: in no single parameter, or not known
    observed real,               -- the number that crossed the limit
    "limit" real,
    message text not null,
    nan text,                    -- which of observed and limit are NaN
    until integer,               -- the last step at which it was seen; null: not over, or it does not last
    origin text,                 -- loss, backward or weights; null: not known
    rank integer,                -- where it began; null: not known, and then left out of crc
    crc integer,
    row_crc integer
);
create table detector_state (
    -- The state of the detectors of an optimizer after the step with an id, so that a resumed run need not
    -- replay the steps up to it. It can be rebuilt from the steps; a reader may ignore it.
    optimizer text primary key,
    last_id integer not null,    -- of the last step they have seen; 0: none
    version text not null,       -- of the detectors; another version rebuilds the state
    state blob not null,         -- a line of JSON, then the arrays in it as bytes
    crc integer,                 -- the state counts in it by its own CRC-32
    row_crc integer
);
"""

STEP_COLUMNS = (
    "step",
    "optimizer",
    "attempt",
    "wall_time",
    "total_norm",
    "max_norm",
    "norm_type",
    "clip_value",
    "clip_coef",
    "cut_entries",
    "nonfinite",
    "loss",
    "learning_rate",
    "learning_rates",
    "loss_scale",
    "skipped",
    "clip_fault",
    "update_norm",
    "weight_norm",
    "parts",
    "nan",
)
"""All columns of a step but its id and checksums; so below."""

DIGEST_COLUMNS = ("last_id", "optimizer", "steps", "steps_crc", "layers", "layers_crc")
ATTEMPT_COLUMNS = ("attempt", "first_step", "started", "ended", "reason", "pid", "host", "process", "dropped")
EVENT_COLUMNS = (
    "step",
    "optimizer",
    "attempt",
    "kind",
    "severity",
    "parameter",
    "observed",
    "limit",
    "message",
    "until",
    "origin",
    "nan",
    "rank",
)
OPTIMIZER_COLUMNS = ("name", "class", "settings")
PARAMETER_COLUMNS = ("optimizer", "position", "name", "shape", "dtype")

CHECKSUMS = ("crc", "row_crc")

BLOBS = {
    "layer": STATS,
    "weight": (*WEIGHT_STATS, *SAMPLED_STATS),
    "rank": RANK_STATS,
    "optimizer_update": UPDATE_STATS,
    "accumulation": ACCUMULATION_STATS,
    "magnitude": MAGNITUDE_STATS,
    "sentinel": SENTINEL_STATS,
}
"""The tables of blobs, with the columns that are statistics."""

FIELDS = {
    "layer": "layers",
    "weight": "weights",
    "rank": "ranks",
    "optimizer_update": "updates",
    "accumulation": "accumulation",
    "magnitude": "magnitudes",
    "sentinel": "sentinels",
}
"""The field of a `StepRecord` that each table of blobs holds."""

OLDER_WIDTHS = {"weight": len(WEIGHT_STATS)}
"""How many blobs the checksums of a table counted before version 6, where that was another number."""

PARTS = {"layer": 1, "weight": 2, "rank": 4, "optimizer_update": 8, "accumulation": 16, "magnitude": 32, "sentinel": 64}
"""The bit of step.parts that says that a table has a row of the step."""

CRC_FROM = "sealed_from"
"""The key in meta of the first step id whose rows have crc, in a store that was begun before schema 4."""

ROW_CRC_FROM = "row_crc_from"
"""The key in meta of the first step id whose rows have row_crc, in a store that was begun without that column."""

ROW_COUNTS = "rows"
"""The key in meta of a JSON object: how many rows the small tables and step had when it was last updated."""

NEXT_STEPS = "next_steps"
"""The key in meta of a JSON object: by optimizer the number after its last step, of all rows of step up to an id."""

_ADDED = {
    ("step", "clip_fault"): 2,
    ("event", "until"): 3,
    ("event", "origin"): 3,
    ("step", "parts"): 4,
    ("event", "rank"): 5,
    ("step", "update_norm"): 6,
    ("step", "weight_norm"): 6,
    **{("weight", name): 6 for name in SAMPLED_STATS},
}
"""The version that added a column. Version 4 also added crc to the tables there were."""

_TABLES_SINCE = {
    "rank": RANKS_SINCE,
    "optimizer_update": UPDATES_SINCE,
    "digest": DIGESTS_SINCE,
    "accumulation": ACCUMULATION_SINCE,
    "magnitude": MAGNITUDES_SINCE,
    "sentinel": SENTINELS_SINCE,
}
"""The version that added a table."""

_DEFINITION = re.compile(r"create table (\w+) ?\((.*)\) ?(without rowid)?")


class Layout(NamedTuple):
    """Which tables and columns a store has.

    Attributes:
        version: of the schema.
        has_row_crc: whether every table has row_crc, and there is a table detector_state.
    """

    version: int
    has_row_crc: bool

    @property
    def may_have_row_crc(self) -> bool:
        """Whether stores of this version have row_crc, or lack it, as this one does."""
        return self.version >= ROW_CRC_SINCE if self.has_row_crc else self.version < UPDATES_SINCE

    @property
    def has_crc(self) -> bool:
        return self.version >= CRC_SINCE

    def has_column(self, table: str, column: str) -> bool:
        """Whether a table, which this layout has, has a column that the newest one has.

        >>> Layout(version=1, has_row_crc=False).has_column("step", "clip_fault")
        False
        """
        if column == "row_crc":
            return self.has_row_crc
        if column == "crc":
            return self.has_crc
        return self.version >= _ADDED.get((table, column), 1)

    def has_table(self, table: str) -> bool:
        if table == "detector_state":
            return self.has_row_crc
        return self.version >= _TABLES_SINCE.get(table, 1)


CURRENT = Layout(version=SCHEMA_VERSION, has_row_crc=True)


@functools.lru_cache(maxsize=256)
def parse(sql: str) -> tuple[str, frozenset[str]] | None:
    r"""The name of a table and the definitions in a CREATE TABLE statement, without comments; None for anything else.

    Columns that an upgrade added stand in another order, which does not matter. "without rowid" counts as a definition.

    >>> name, definitions = parse("CREATE TABLE t (id integer primary key, -- its number\n x real)")
    >>> name, sorted(definitions)
    ('t', ['id integer primary key', 'x real'])
    """
    plain = " ".join(re.sub(r"--[^\n]*", " ", sql).lower().split())
    found = _DEFINITION.fullmatch(plain)
    if found is None:
        return None
    name, inside, rowid = found.groups()
    # A comma within parentheses separates columns of a key, not definitions.
    definitions = [part.strip() for part in re.split(r",(?![^(]*\))", inside)]
    if len(definitions) != len(set(definitions)):
        return None
    return name, frozenset(definitions) | ({rowid} if rowid else frozenset())


def create_statements() -> list[str]:
    """The statements that create an empty store."""
    return [statement for statement in SCHEMA.split(";\n") if statement.strip()]


@functools.cache
def declared(layout: Layout) -> Mapping[str, frozenset[str]]:
    """The tables of a layout, with the definitions of their columns.

    >>> "clip_fault text" in declared(Layout(version=1, has_row_crc=False))["step"]
    False
    """
    tables = dict(found for statement in create_statements() if (found := parse(statement)) is not None)
    return {
        table: frozenset(d for d in definitions if layout.has_column(table, d.split()[0].strip('"')))
        for table, definitions in tables.items()
        if layout.has_table(table)
    }


def upgrade_statements(layout: Layout) -> list[str]:
    """The statements that turn a store of an older layout into one of the current layout; rows stay as they are.

    >>> upgrade_statements(CURRENT)
    []
    """
    statements = []
    for statement in create_statements():
        parsed = parse(statement)
        assert parsed is not None
        table, definitions = parsed
        if not layout.has_table(table):
            statements.append(statement)
            continue
        present = declared(layout)[table]
        statements += [f"alter table {table} add column {added}" for added in sorted(definitions - present)]
    return statements

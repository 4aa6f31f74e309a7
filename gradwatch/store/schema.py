"""The schema of the store, which is public: docs/store.md is made from it.

Versions: 1, the first; 2 adds step.clip_fault; 3 adds event.until and event.origin; 4 adds crc to every table;
5 adds the table rank and event.rank.
"""

FILE_NAME = "gradwatch.db"
SCHEMA_VERSION = 5
SEALED_SINCE = 4  # the first version whose rows have checksums
RANKS_SINCE = 5  # the first version with the table rank
APPLICATION_ID = 0x67726164  # "grad", in the header of the file
PAGE_SIZE = 16384

SCHEMA = """\
create table meta (
    -- What is known of the run as a whole, as text.
    key   text primary key,
    value text,
    crc   integer                -- checksum of the row; null, here and below: written before schema 4
);
create table attempt (
    -- One row each time a process attached to the run: 0, 1, 2, ...
    attempt integer primary key,
    first_step integer not null, -- the step it began with
    started real not null,       -- seconds since the epoch
    ended   real,                -- null: still running, or killed
    reason  text,                -- how it ended: closed, exception, exit, signal, fault
    pid     integer not null,    -- of the process that writes
    host    text not null,
    process text,                -- when that process started, as its system counts
    dropped integer not null default 0, -- steps lost because the disk did not take them in time
    crc     integer
);
create table optimizer (
    -- One row per optimizer; its name is 0, 1, ... unless it was given one.
    name  text primary key,
    class text not null,         -- SGD, AdamW, ...
    settings text not null,      -- its defaults, as JSON
    crc   integer
);
create table parameter (
    -- One row per parameter of an optimizer; position is the index in the blobs.
    optimizer text not null,
    position integer not null,
    name  text not null,
    shape text not null,         -- JSON list
    dtype text not null,
    crc   integer,
    primary key (optimizer, position)
) without rowid;
create table step (
    -- One row per attempt to update the weights, in order of arrival. Of two rows with the same
    -- optimizer and step the one of the later attempt stands.
    id integer primary key,
    step integer not null,       -- counted from 0
    optimizer text not null,
    attempt integer not null,
    wall_time real not null,     -- seconds since the epoch, when the step was made
    total_norm real,             -- L2 norm of all gradients of the optimizer, before clipping
    max_norm real,               -- threshold of clipping by norm; null: not clipped by norm
    norm_type real,              -- of that clipping; null: 2
    clip_value real,             -- threshold of clipping by value; null: not clipped by value
    clip_coef real,              -- factor that the gradients were multiplied by
    cut_entries integer,         -- entries cut by value clipping; null: not known or no such clipping
    nonfinite integer not null,  -- gradient entries that are NaN or infinite
    loss real,                   -- null: not logged
    learning_rate real,          -- of the first parameter group
    learning_rates text,         -- of every group as JSON; null: there is one
    loss_scale real,             -- of the GradScaler; null: none
    skipped integer not null,    -- 1: the update did not happen
    nan text,                    -- which columns of this row are NaN, by name; SQLite keeps NaN as null
    clip_fault text,             -- why clipping did not act as it was meant to; null: nothing is known to be wrong
    parts integer,               -- sum of the tables with a row of this id: 1 layer, 2 weight, 4 rank; null: not known
    crc integer
);
create table layer (
    -- The gradients of the step of the same id, before clipping. An entry is NaN where the
    -- parameter had no gradient, in all columns; a gradient with NaN in it has nonfinite > 0.
    id integer primary key,
    norm blob not null,          -- L2 norm
    abs_max blob,                -- largest magnitude
    nonfinite blob,              -- number of entries that are NaN or infinite
    zeros blob,                  -- number of entries that are exactly 0
    crc blob                     -- uint32 checksums of the four blobs
);
create table weight (
    -- Sampled: the weights at the step of the same id.
    id integer primary key,
    weight_norm blob not null,   -- L2 norm before the step
    update_norm blob not null,   -- L2 norm of what the step changed
    crc blob                     -- uint32 checksums of the two blobs
);
create table rank (
    -- Of a training by several processes: what each had at the step of the same id. Blobs have a
    -- float32 for each rank, NaN where it was not heard.
    id integer primary key,
    norm blob not null,          -- L2 norm of its gradient before the reduction over ranks, or of what it held
    nonfinite blob not null,     -- entries of that which are NaN or infinite
    differing blob not null,     -- parameters whose gradient is not that of the other ranks and should be
    differs_in blob not null,    -- position of the first of these
    before_reduction blob not null, -- 1: its norm is of before the reduction, 0: of what it held
    crc blob                     -- uint32 checksums of the five blobs
);
create table event (
    -- What the detectors found, in order. An event that lasts is one row, which is brought up to date.
    id integer primary key,
    step integer not null,
    optimizer text not null,
    attempt integer not null,
    kind text not null,          -- spike, explosion, nonfinite, ...
    severity text not null,      -- info, warning, critical
    parameter text,              -- where it began; null: the whole, or not known
    observed real,               -- the number that crossed the limit
    "limit" real,
    message text not null,
    nan text,                    -- which of observed and limit are NaN
    until integer,               -- the last step at which it was seen; null: not over, or no matter of time
    origin text,                 -- loss, backward or weights; null: not known
    rank integer,                -- of the process where it began; null: not known, and not in the checksum then
    crc integer
);
"""

STEP_COLUMNS = [
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
    "parts",
    "nan",
]
ATTEMPT_COLUMNS = ["attempt", "first_step", "started", "ended", "reason", "pid", "host", "process", "dropped"]
UPGRADES = {
    1: ("alter table step add column clip_fault text",),
    2: ("alter table event add column until integer", "alter table event add column origin text"),
    3: (
        *(f"alter table {name} add column crc integer" for name in ("meta", "attempt", "optimizer", "parameter")),
        *(f"alter table {name} add column crc integer" for name in ("step", "event")),
        "alter table step add column parts integer",
        *(f"alter table {name} add column crc blob" for name in ("layer", "weight")),
    ),
    4: (
        "create table rank" + SCHEMA.split("create table rank")[1].split(";\n", maxsplit=1)[0],
        "alter table event add column rank integer",
    ),
}
"""What makes the next version of a store of each earlier one, before it is continued."""

EVENT_COLUMNS = [
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
]
PARTS = {"layer": 1, "weight": 2, "rank": 4}
"""What tells in step.parts that a table has a row of the step."""

ADDED = {5: {"rank"}}
"""Columns of sealed tables that a version added."""

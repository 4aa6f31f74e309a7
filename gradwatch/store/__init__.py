"""The store: one SQLite file a run.

Totals, thresholds, losses and events are plain columns that any SQLite tool can read. The statistics of parameters are
one row of little-endian float32 blobs for each step, with one entry for each parameter in the order of table
``parameter``.
"""

from gradwatch.store.reader import StoreReader
from gradwatch.store.schema import FILE_NAME, SCHEMA, SCHEMA_VERSION
from gradwatch.store.values import LARGEST, LATEST, Attempt
from gradwatch.store.writer import StoreWriter

__all__ = ["FILE_NAME", "LARGEST", "LATEST", "SCHEMA", "SCHEMA_VERSION", "Attempt", "StoreReader", "StoreWriter"]

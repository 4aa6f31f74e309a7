"""The store: one SQLite file a run.

Totals, thresholds, losses and events are plain columns that any SQLite tool can read. The statistics of parameters are
one row of little-endian float32 blobs for each step, with one entry for each parameter in the order of table
``parameter``.
"""

from typing import TYPE_CHECKING

from gradwatch.late import late_names

if TYPE_CHECKING:
    from gradwatch.store.limits import LARGEST, LATEST
    from gradwatch.store.reader import StoreReader
    from gradwatch.store.schema import FILE_NAME, SCHEMA, SCHEMA_VERSION
    from gradwatch.store.values import Attempt
    from gradwatch.store.writer import StoreWriter
else:
    __getattr__, __dir__ = late_names(
        __name__,
        {
            "Attempt": "values",
            "FILE_NAME": "schema",
            "LARGEST": "limits",
            "LATEST": "limits",
            "SCHEMA": "schema",
            "SCHEMA_VERSION": "schema",
            "StoreReader": "reader",
            "StoreWriter": "writer",
        },
    )

__all__ = ["FILE_NAME", "LARGEST", "LATEST", "SCHEMA", "SCHEMA_VERSION", "Attempt", "StoreReader", "StoreWriter"]

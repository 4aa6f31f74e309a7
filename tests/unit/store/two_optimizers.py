"""The records of a store in which two optimizers have stepped."""

import dataclasses

from gradwatch.testing import replaced, steady, stream

RECORDS = stream(replaced(steady(40), {7: float("nan"), 9: float("inf")}), losses=[None, *[1.0] * 39])
OTHERS = [dataclasses.replace(record, optimizer="1", step=record.step + 100) for record in stream(steady(10))]

"""Where each optimizer's steps go on, kept in the store so that a resumed run need not read all earlier steps.

The row of table ``meta`` tells of the steps up to an id. A reader looks at the rows after that id itself, so the row
may be old. Without it, as in an older store, the reader looks at all rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gradwatch.record import StepRecord
from gradwatch.store.limits import is_count
from gradwatch.store.rows import text

EVERY = 10_000
"""Ids after which the row is written again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextSteps:
    """The number after the last step of each optimizer, of the rows of table ``step`` up to ``last_id``."""

    last_id: int = 0
    steps: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None) -> NextSteps:
        """Read what `format` wrote; of anything else, nothing is known.

        >>> NextSteps.parse(NextSteps(last_id=7, steps={"0": 7}).format()).steps
        {'0': 7}
        >>> NextSteps.parse("odd").last_id
        0
        """
        try:
            found = json.loads(text or "{}")
            last_id, steps = found["last_id"], found["steps"]
            if is_count(last_id) and all(map(is_count, steps.values())):
                return cls(last_id=last_id, steps=steps)
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            pass
        return cls()

    def format(self) -> str:
        return json.dumps({"last_id": self.last_id, "steps": dict(self.steps)})

    def after(self, records: Iterable[StepRecord], last_id: int) -> NextSteps:
        """The same with these records, up to a larger id."""
        steps = dict(self.steps)
        for record in records:
            name = text(record.optimizer)
            steps[name] = max(steps.get(name, 0), record.step + 1)
        return NextSteps(last_id=last_id, steps=steps)

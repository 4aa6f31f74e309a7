"""trackio's storage gives back what the store holds."""

from gradwatch.export.trackers import send_run
from gradwatch.sinks.targets import parse_target

from .support import STEPS, assert_equal, expected


def test_trackio_holds_the_series_and_the_verdict(run, trackio_folder):
    from trackio.sqlite_storage import SQLiteStorage

    assert send_run(run, parse_target("trackio:p")) == STEPS
    rows = SQLiteStorage.get_logs("p", "the-run")
    for name, wanted in expected(run).items():
        found = {int(row["step"]): float(row[f"gradwatch/{name}"]) for row in rows if f"gradwatch/{name}" in row}
        assert_equal(found, wanted)
    (verdict,) = [row["gradwatch/verdict"] for row in rows if "gradwatch/verdict" in row]
    assert verdict == run.summary().verdict
    told = [event.message for event in run.events() if event.severity != "info"]
    assert sorted(alert["text"] for alert in SQLiteStorage.get_alerts("p")) == sorted(told)

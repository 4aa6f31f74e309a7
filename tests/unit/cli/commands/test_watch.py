"""`gradwatch watch`, off a terminal. In a terminal: tests/end_to_end/test_live.py."""


def test_off_a_terminal_the_report_is_printed_once(runs, command):
    done = command("watch", runs / "good")
    assert done.code == 0
    assert done.out.count("HEALTHY") == 1


def test_updates_can_not_be_too_close(runs, command):
    assert command("watch", runs / "good", "--every", "0").code == 2

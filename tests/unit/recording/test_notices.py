"""Warnings that are given once."""

import logging

from gradwatch.recording.notices import Notices


def test_a_warning_is_given_once_and_another_one_too(caplog):
    notices = Notices()
    with caplog.at_level(logging.WARNING, "gradwatch"):
        for _ in range(3):
            notices.warn_once("first 100% %s")
            notices.warn_once("second")
            notices.not_clipped("why")
            notices.not_skipped("why")
    assert [record.getMessage() for record in caplog.records] == [
        "first 100% %s",
        "second",
        "gradwatch did not clip: why (clip-not-applied)",
        "gradwatch did not skip: why (skip-not-applied)",
    ]


def test_two_recordings_warn_each(caplog):
    for notices in (Notices(), Notices()):
        notices.warn_once("again")
    assert len(caplog.records) == 2

import pytest

from gradwatch.cli.arguments import check_kinds
from gradwatch.errors import BadArgument
from gradwatch.record import KINDS


def test_every_kind_and_none_at_all_are_taken():
    check_kinds(KINDS)
    check_kinds([])


def test_another_word_is_refused_with_the_kinds_that_there_are():
    with pytest.raises(BadArgument, match=r"'explosions' is not a kind of event; expected one of .*explosion"):
        check_kinds(["explosion", "explosions"])

"""Bars, shown only to those who would wait."""

import time

from jaxdiff import progress


def test_a_long_look_shows_a_bar(capfd):
    with progress.bar("looking", 10, delay=0.01) as advance:
        time.sleep(0.02)
        advance(4)
    out, err = capfd.readouterr()
    assert out == "" and "looking" in err and "4/10" in err


def test_a_short_one_shows_nothing(capfd):
    with progress.bar("looking", 10, delay=60.0) as advance:
        advance(10)
    assert capfd.readouterr() == ("", "")

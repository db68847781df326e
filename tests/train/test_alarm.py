"""A failure here: kept, told, and raised once all know. Of several processes, see test_hosts."""

import pytest

from jaxdiff.train.alarm import AHEAD, Alarm


def failing(after):
    yield from range(after)
    raise ValueError("photo.png is broken")


def calls(alarm, batches, fail=None):
    """As the loop makes them; gives what was read for each."""
    made = []
    for batch in alarm.read(batches):
        made.append(batch)
        alarm.tell()
        if batch == fail:
            alarm.attempt(lambda: 1 / 0)
        if alarm.rung():
            break
    return made


@pytest.mark.parametrize("after", [AHEAD, AHEAD + 1, 20])
def test_what_was_read_before_a_failure_lasts_until_all_know(after):
    alarm = Alarm()
    made = calls(alarm, failing(after))
    assert made == list(range(after))[: len(made)] and len(made) >= AHEAD
    with pytest.raises(ValueError, match=r"photo\.png is broken"):
        alarm.settle()


def test_a_failure_after_a_call_ends_two_calls_later():
    alarm = Alarm()
    assert calls(alarm, iter(range(100)), fail=10) == list(range(13))
    with pytest.raises(ZeroDivisionError):
        alarm.settle()


def test_without_a_failure_nothing_ends():
    alarm = Alarm()
    assert not any(alarm.tell() or alarm.rung() for _ in range(10))
    assert alarm.attempt(max, 1, 2) == 2
    alarm.settle()


def test_the_first_failure_is_the_one_raised():
    alarm = Alarm()
    for error in (OSError("first"), ValueError("second")):
        alarm.attempt(lambda error=error: (_ for _ in ()).throw(error))
    with pytest.raises(OSError, match="first"):
        alarm.settle()


def test_nothing_to_read_at_all():
    alarm = Alarm()
    assert list(alarm.read(failing(0))) == []
    with pytest.raises(ValueError, match="broken"):
        alarm.settle()

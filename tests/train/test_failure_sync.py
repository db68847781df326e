"""A failure here: kept, told, and raised once all know. Of several processes, see test_hosts."""

import itertools

import pytest
from jaxdiff.train.alarm import AHEAD


def failing(after):
    yield from range(after)
    raise ValueError("photo.png is broken")


def calls(alarm, batches, fail=None):
    """As the loop makes them, until the alarm rings; gives what was read for each."""
    made = []
    for batch in alarm.read(batches):
        made.append(batch)
        alarm.tell()
        if batch == fail:
            alarm.attempt(lambda: 1 / 0)
        if alarm.rung():
            return made
    pytest.fail("there was nothing more to read, and not all knew of it")


@pytest.mark.parametrize("after", [AHEAD, AHEAD + 1, 20])
def test_what_was_read_before_a_failure_lasts_until_all_know(after):
    alarm = FailureSync()
    assert calls(alarm, failing(after)) == list(range(after))
    with pytest.raises(ValueError, match=r"photo\.png is broken"):
        alarm.settle("the test")


def test_a_failure_after_a_call_ends_two_calls_later():
    alarm = FailureSync()
    assert calls(alarm, iter(range(100)), fail=10) == list(range(13))
    with pytest.raises(ZeroDivisionError):
        alarm.settle("the test")


@pytest.mark.parametrize("count", [1, AHEAD, AHEAD + 1, 20])
def test_batches_that_come_to_their_end_are_no_failure(count):
    alarm = FailureSync()
    assert list(alarm.read(range(count))) == list(range(count))
    alarm.settle("the test")


def test_what_lies_beyond_the_last_call_is_not_read():
    alarm = FailureSync()
    assert list(alarm.read(itertools.islice(failing(5), 5))) == list(range(5))
    alarm.settle("the test")


def test_a_failure_after_the_last_call_is_not_lost():
    alarm = FailureSync()
    for batch in alarm.read(range(3)):
        alarm.tell()
        assert not alarm.rung()
        if batch == 2:
            alarm.attempt(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        alarm.settle("the test")


def test_a_failure_that_is_not_what_ends_the_run_is_said(caplog):
    with pytest.raises(KeyError), FailureSync() as alarm:
        alarm.attempt(lambda: 1 / 0)
        raise KeyError
    assert "besides, this failed: division by zero" in caplog.text


def test_without_a_failure_nothing_ends():
    alarm = FailureSync()
    assert not any(alarm.tell() or alarm.rung() for _ in range(10))
    assert alarm.attempt(max, 1, 2) == 2
    alarm.settle("the test")


def test_the_first_failure_is_the_one_raised():
    alarm = FailureSync()
    for error in (OSError("first"), ValueError("second")):
        alarm.attempt(lambda error=error: (_ for _ in ()).throw(error))
    with pytest.raises(OSError, match="first"):
        alarm.settle("the test")


def test_nothing_to_read_at_all():
    alarm = FailureSync()
    assert list(alarm.read(failing(0))) == []
    with pytest.raises(ValueError, match="broken"):
        alarm.settle("the test")

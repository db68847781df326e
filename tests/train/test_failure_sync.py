"""A failure here: kept, told, and raised once all know. Of several processes, see test_hosts."""

import itertools

import pytest

from jaxdiff.train.failure_sync import AHEAD, FailureSync


def failing(after):
    yield from range(after)
    raise ValueError("photo.png is broken")


def calls(sync, batches, fail=None):
    """As the loop makes them, until it says that one has failed; gives what was read for each."""
    made = []
    for batch in sync.read(batches):
        made.append(batch)
        sync.share()
        if batch == fail:
            sync.attempt(lambda: 1 / 0)
        if sync.any_failed():
            return made
    pytest.fail("there was nothing more to read, and not all knew of it")


@pytest.mark.parametrize("after", [AHEAD, AHEAD + 1, 20])
def test_what_was_read_before_a_failure_lasts_until_all_know(after):
    sync = FailureSync()
    assert calls(sync, failing(after)) == list(range(after))
    with pytest.raises(ValueError, match=r"photo\.png is broken"):
        sync.raise_together("the test")


def test_a_failure_after_a_call_ends_two_calls_later():
    sync = FailureSync()
    assert calls(sync, iter(range(100)), fail=10) == list(range(13))
    with pytest.raises(ZeroDivisionError):
        sync.raise_together("the test")


@pytest.mark.parametrize("count", [1, AHEAD, AHEAD + 1, 20])
def test_batches_that_come_to_their_end_are_no_failure(count):
    sync = FailureSync()
    assert list(sync.read(range(count))) == list(range(count))
    sync.raise_together("the test")


def test_what_lies_beyond_the_last_call_is_not_read():
    sync = FailureSync()
    assert list(sync.read(itertools.islice(failing(5), 5))) == list(range(5))
    sync.raise_together("the test")


def test_a_failure_after_the_last_call_is_not_lost():
    sync = FailureSync()
    for batch in sync.read(range(3)):
        sync.share()
        assert not sync.any_failed()
        if batch == 2:
            sync.attempt(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sync.raise_together("the test")


def test_a_failure_that_is_not_what_ends_the_run_is_said(caplog):
    with pytest.raises(KeyError), FailureSync() as sync:
        sync.attempt(lambda: 1 / 0)
        raise KeyError
    assert "besides, this failed: division by zero" in caplog.text


def test_without_a_failure_nothing_ends():
    sync = FailureSync()
    assert not any(sync.share() or sync.any_failed() for _ in range(10))
    assert sync.attempt(max, 1, 2) == 2
    sync.raise_together("the test")


def test_the_first_failure_is_the_one_raised():
    sync = FailureSync()
    for error in (OSError("first"), ValueError("second")):
        sync.attempt(lambda error=error: (_ for _ in ()).throw(error))
    with pytest.raises(OSError, match="first"):
        sync.raise_together("the test")


def test_nothing_to_read_at_all():
    sync = FailureSync()
    assert list(sync.read(failing(0))) == []
    with pytest.raises(ValueError, match="broken"):
        sync.raise_together("the test")

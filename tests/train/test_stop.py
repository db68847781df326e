"""Signals that end a run early."""

import signal

import pytest

from jaxdiff.train.stop import Asked, Stop


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_noted_and_said(signum, capfd):
    before = signal.signal(signum, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        with Stop() as stop:
            assert not stop.asked(1)
            stop.tick()
            signal.raise_signal(signum)
            assert stop.asked(2) and stop.signum == signum
            with pytest.raises(Asked):
                stop.tick()
    finally:
        signal.signal(signum, before)
    assert capfd.readouterr().err.strip() == "jaxdiff: stopping: saving first (Ctrl-C again stops at once)"


def test_a_signal_is_noted_even_if_nobody_listens(monkeypatch):
    monkeypatch.setattr("os.write", lambda *_: (_ for _ in ()).throw(BrokenPipeError))
    with Stop() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.asked(1)


def test_a_second_ctrl_c_ends_at_once_and_a_second_sigterm_does_not():
    with Stop() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.signum == signal.SIGTERM


def test_a_lost_connection_is_ignored_where_it_was():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.asked(1)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_afterwards_signals_are_what_they_were():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Stop():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_orbax_is_asked_at_every_call(monkeypatch):
    asked = []
    monkeypatch.setattr("orbax.checkpoint.multihost.reached_preemption", lambda call: asked.append(call) or call == 3)
    with Stop() as stop:
        assert [stop.asked(call) for call in (1, 2, 3)] == [False, False, True]
    assert asked == [1, 2, 3] and stop.signum == signal.SIGTERM

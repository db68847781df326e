"""Stopping early without losing anything: Ctrl-C, SIGTERM, a lost connection, and the preemption of any host."""

import contextlib
import os
import signal
import threading

import jax
import orbax.checkpoint as ocp


class Stopped(Exception):
    """A run that was asked to end early and has saved where it was.

    Attributes:
      signum: the signal that asked.
    """

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.signum = signum


class Asked(Exception):
    """Leaves what need not be finished."""


class Stop:
    """Inside of `with`, Ctrl-C, SIGTERM and SIGHUP do not end the process but are noted; a second Ctrl-C does end it.

    SIGHUP stays ignored where it was, as under nohup.

    Among several processes all must stop after the same step: there the signal goes to jax's preemption service, which
    tells every process, and `asked` is true in all of them after the same call.

    Attributes:
      signum: the signal that came, or None.
    """

    def __init__(self):
        self.signum, self._before = None, {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # Python hears of signals nowhere else
            # Of several processes each leaves SIGTERM to the preemption service.
            signals = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGINT, signal.SIGTERM]
            if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # not on Windows
                signals.append(signal.SIGHUP)
            self._before = {signum: signal.signal(signum, self._note) for signum in signals}
        return self

    def __exit__(self, *_):
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum, frame):
        if self.signum is not None:
            if signum == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.signum = signum
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        with contextlib.suppress(OSError):  # not `print`, which may be in the middle of another line, or have no reader
            os.write(2, b"\njaxdiff: stopping: saving first (Ctrl-C again stops at once)\n")

    def asked(self, call: int) -> bool:
        """Whether to save and end now; to be asked once after every call, by all processes, with its number."""
        if ocp.multihost.reached_preemption(call):
            self.signum = self.signum or signal.SIGTERM
            return True
        return self.signum is not None and jax.process_count() == 1

    def tick(self, _=None) -> None:
        """Raises Asked if a signal came; for inside of what need not be finished."""
        if self.signum is not None:
            raise Asked

"""Entry point of the command, `jaxdiff` and `python -m jaxdiff`; imports almost nothing before Ctrl-C is taken care of."""

import os
import signal


class Interrupts:
    """Handler of SIGINT: ends the process without a word while modules are imported, and raises KeyboardInterrupt later.

    A KeyboardInterrupt inside of the import of a package in C comes out as an error of that package, or crashes it.

    Attributes:
      importing: whether the process ends at once.
      seen: whether there was one.
    """

    def __init__(self):
        self.importing, self.seen = True, False

    def __call__(self, signum, frame):
        self.seen = True
        if self.importing:
            os._exit(128 + signum)
        raise KeyboardInterrupt


def main() -> None:
    """Runs `jaxdiff.cli.main` with the arguments of the process."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as behind nohup
        signal.signal(signal.SIGINT, Interrupts())
    from jaxdiff import cli

    cli.main()


if __name__ == "__main__":
    main()

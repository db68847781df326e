"""The command line: its commands, and what becomes of errors."""

import contextlib
import logging
import os
import signal
import sys
import traceback
from pathlib import Path

import jax

from jaxdiff import config as configs
from jaxdiff import pretrained, xla
from jaxdiff.cli import edit, evaluate, fuse, models, sample, train
from jaxdiff.errors import unknown
from jaxdiff.train.stop import Stopped
from jaxdiff.train.watch import NotFinite

USAGE = """jaxdiff: diffusion models in JAX

  jaxdiff train CONFIG [--run-dir DIR] [--resume] [--train.steps N] ...   train a model
  jaxdiff sample MODEL ["a red seven"] [--label 7] [--guidance 3] ...     draw images from a trained model
  jaxdiff sample MODEL "a red <star>" --lora star.safetensors:0.8         ... with a LoRA, or --controlnet and --control
  jaxdiff edit MODEL --image in.png --source "a red 7" --prompt "a blue 7"  edit an image by its words
  jaxdiff fuse LORA LORA ... -o fused.safetensors                         one LoRA of several
  jaxdiff eval MODEL [--metrics nll,fid] [--source digits:test] ...       measure it on data that it has not seen
  jaxdiff export RUN [--out digits.safetensors]                           its weights as one file
  jaxdiff pretrained                                                      the models that ship with the package

CONFIG is one of {configs}, or the path of a Python file that defines get_config().
MODEL is one of {models}, or a directory that 'jaxdiff train' has written, such as runs/digits, or a file
that 'jaxdiff export' has written.
'jaxdiff train CONFIG --help' lists all flags of training, and so do the others.
Set JAXDIFF_TRACEBACK=1 to see where an error came from.
"""


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `jaxdiff` command, whose errors are one line on standard error and an exit code.

    2 is a mistake of the user's or a machine that cannot do it, 3 a loss that is not finite, 128 + n the end by signal n.
    """
    args = sys.argv[1:] if argv is None else argv
    try:
        with logged():
            dispatch(args)
    except (ValueError, OSError) as error:
        end(f"error: {said(error)}", 2)
    except NotFinite as error:
        end(f"error: {error}", 3)
    except Stopped as error:
        end(str(error), 128 + error.signum)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        end(f"error: out of memory: try --train.accumulate, --net.remat or a smaller batch ({error})", 2)
    except KeyboardInterrupt:
        end("stopped without saving", 128 + signal.SIGINT)


def said(error: Exception) -> str:
    """The text of an error, without the number that the system gives it."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


@contextlib.contextmanager
def logged():
    """Shows on standard error what jaxdiff logs."""
    logger, handler = logging.getLogger("jaxdiff"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("jaxdiff: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # some libraries make the root logger repeat it
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax and tensorflow-datasets have much to say
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


def end(message: str, code: int) -> None:
    """Ends the process with one line; inside of an `except`, and with the traceback where that was asked for."""
    if os.environ.get("JAXDIFF_TRACEBACK"):
        traceback.print_exc()
    print(f"jaxdiff: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def dispatch(args: list[str]) -> None:
    """Runs the command that the arguments name.

    Raises:
      ValueError: there is no such command, or it lacks what it works on.
    """
    if not args or args[0] in ("-h", "--help"):
        print(USAGE.format(configs=", ".join(configs.names()), models=", ".join(pretrained.names())), end="")
        return
    commands = {
        "train": (train.train, "a config, such as digits"),
        "sample": (sample.sample, "a model, such as digits or runs/digits"),
        "edit": (edit.edit, "a model, such as captioned or runs/latent"),
        "eval": (evaluate.evaluate, "a model, such as digits or runs/digits"),
        "fuse": (fuse.fuse, "two LoRAs or more, such as runs/star runs/heart"),
        "export": (models.export, "a run directory, such as runs/digits"),
        "pretrained": (models.pretrained, None),
    }
    command, *rest = args
    if command not in commands:
        raise unknown("command", command, commands)
    run, what = commands[command]
    if what is None:
        return run(rest)
    if not rest or rest[0].startswith("-"):
        raise ValueError(f"jaxdiff {command} needs {what}: see jaxdiff --help")
    xla.tune_cpu()
    use_compilation_cache()
    run(rest[0], rest[1:])


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs: in JAX_COMPILATION_CACHE_DIR, or in the user's cache directory."""
    if not jax.config.jax_compilation_cache_dir:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxdiff" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

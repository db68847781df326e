"""The command line: its commands, and how errors are reported."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import signal
import sys
import traceback
from pathlib import Path

import jaxdiff
from jaxdiff.cli import environment
from jaxdiff.errors import NotFinite, check_known, of_code

USAGE = """jaxdiff: diffusion models in JAX

  jaxdiff train CONFIG [--run-dir DIR] [--resume] [--train.steps N] ...   train a model
  jaxdiff sample MODEL ["a red seven"] [--label 7] [--guidance 3] ...     sample images from a model
  jaxdiff edit MODEL --image in.png --source "a red 7" --prompt "a blue 7"  edit an image by its prompt
  jaxdiff eval MODEL [--metrics nll,fid] [--source digits:test] ...       evaluate it on held-out data
  jaxdiff fuse LORA LORA ... -o fused.safetensors                         fuse several LoRAs into one
  jaxdiff export RUN [--out digits.safetensors]                           write its weights as one file
  jaxdiff convert IN OUT [--layout kohya]                                 write it in the layout of others
  jaxdiff plan CONFIG [--topology v5e:16x16] [--for sample] ...           memory and time on TPUs that are absent
  jaxdiff prepare SOURCE OUT [--codec MODEL] ...                          decode, resize and encode it once
  jaxdiff data SOURCE [--out sheet.png] ...                               what a data source holds, with a sheet of it
  jaxdiff pretrained                                                      list the models that ship with the package

sample, edit and eval take --lora FILE:WEIGHT, and --controlnet FILE with --control PICTURE.
CONFIG is one of {configs}, or the path of a Python file that defines get_config().
MODEL is one of {models}, or a directory that 'jaxdiff train' has written, such as runs/digits, or a file
that 'jaxdiff export' has written, or a published model: a folder of diffusers, a single file, or hf:org/name.
'jaxdiff train CONFIG --help' lists all flags of training, and so do the others.
--import MODULE, in front of a command, imports a module or a file that registers samplers, networks or data sources.
Set JAXDIFF_TRACEBACK=1 to see where an error came from. jaxdiff --version prints the version.
"""
COMMANDS = {  # module in jaxdiff.cli, the first argument and how help calls it
    "train": ("train", "a config, such as digits", "CONFIG"),
    "sample": ("sample", "a model, such as digits or runs/digits", "MODEL"),
    "edit": ("edit", "a model, such as captioned or runs/latent", "MODEL"),
    "eval": ("evaluate", "a model, such as digits or runs/digits", "MODEL"),
    "fuse": ("fuse", "two LoRAs or more, such as runs/star runs/heart", "LORA LORA ..."),
    "export": ("export", "a run directory, such as runs/digits", "RUN"),
    "convert": ("convert", "a model or an adapter, such as stable-diffusion-v1-5 or star", "IN OUT"),
    "plan": ("plan", "a config or a model, such as stable_diffusion_1", "CONFIG"),
    "prepare": ("prepare", "a data source and a folder, such as folder:photos records", "SOURCE OUT"),
    "data": ("data", "a data source, such as folder:photos", "SOURCE"),
    "pretrained": ("pretrained", None, ""),
}
INSTALLED_BY = {"gcsfs": "'jaxdiff[gcs]'", "s3fs": "s3fs"}  # what fsspec misses for addresses of buckets
ELSEWHERE = ("plan",)  # commands that compile for other devices, where flags for a CPU would do harm


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `jaxdiff` command, whose errors are one line on standard error and an exit code.

    2 is a mistake in the arguments or a machine that cannot do it, 3 a result that is not finite, 128 + n the end by
    signal n.
    """
    args = sys.argv[1:] if argv is None else argv
    open_closed_streams()
    take_all_letters()
    if odd := next((arg for arg in args if not arg.isprintable() and _has_surrogates(arg)), None):
        end(f"error: the argument {os.fsencode(odd)!r} is not {_encoding_of(odd)}", 2)
    try:
        with logged():
            dispatch_and_flush(args)
    except BrokenPipeError:  # whoever read the output, such as `head`, has enough
        drop_output()
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        end("stopped without saving", 128 + signal.SIGINT)
    except Exception as error:
        report(error, args)


def report(error: Exception, args: list[str]) -> None:
    """Ends the process with one line for an error; raises it again where it is a mistake of the program."""
    if (signum := getattr(error, "signum", None)) is not None:  # train.stop.Stopped
        end(str(error), 128 + signum)
    if was_interrupted(error):
        end("stopped without saving", 128 + signal.SIGINT)
    if isinstance(error, ValueError | OSError | ImportError):  # of a package that an address or an option needs
        end(f"error: {text_of(error, args)}", 2)
    if isinstance(error, NotFinite):
        end(f"error: {text_of(error, args)}", 3)
    if isinstance(error, RuntimeError | AssertionError) and (reason := _why_jax_cannot_start()):
        end(f"error: jax cannot start ({reason}): see JAX_PLATFORMS", 2)
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise
    end(f"error: out of memory: try --train.accumulate, --net.remat or a smaller batch ({error})", 2)


def was_interrupted(error: BaseException | None) -> bool:
    """Whether an error came of Ctrl-C, which inside of a library's import comes out as an error of that library."""
    if getattr(signal.getsignal(signal.SIGINT), "seen", False):  # of __main__.Interrupts
        return True
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def let_interrupt() -> None:
    """Lets Ctrl-C raise KeyboardInterrupt from here on, where `__main__.Interrupts` has ended the process so far."""
    handler = signal.getsignal(signal.SIGINT)
    if getattr(handler, "importing", False):
        handler.importing = False


def _why_jax_cannot_start():
    """The reason why jax has no device to compute on; "" where it has one."""
    import jax

    try:
        jax.default_backend()
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    except AssertionError:  # of a plugin that is not installed
        return f"there is no backend {jax.config.jax_platforms}"
    return ""


def _has_surrogates(text):
    return any("\ud800" <= sign <= "\udfff" for sign in text)


def _encoding_of(arg):
    """The encoding that an argument is not of, and what to do where it is the locale's."""
    try:
        os.fsencode(arg).decode()
    except UnicodeDecodeError:
        return "UTF-8"
    return f"of the locale's encoding {sys.getfilesystemencoding()}: set PYTHONUTF8=1"


def open_closed_streams() -> None:
    """Opens the null device where the shell has closed standard input, output or error (`>&-`).

    In their order, so that each has its own number again: else the next file that is opened has it, such as a checkpoint,
    and is written into by libraries that report there.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
        setattr(sys, name, open(os.devnull, mode))


def take_all_letters() -> None:
    """Prints letters that the encoding of the output lacks as escapes, in place of an error when all is done."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict":
            stream.reconfigure(errors="backslashreplace")


def dispatch_and_flush(args: list[str]) -> None:
    """As `dispatch`; raises OSError here, and not when Python ends, where the output cannot be written."""
    try:
        dispatch(args)
    except SystemExit:  # of --help
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def drop_output() -> None:
    """Drops what is left of the output, which Python would try to write once more when it ends."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def text_of(error: Exception, args: list[str]) -> str:
    """The text of an error with arguments as flags of the command, without the number that the system gives it."""
    from jaxdiff import disk
    from jaxdiff.cli.choices import flags_of
    from jaxdiff.cli.flags import as_flags

    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        name = error.filename or ("standard output" if error.errno in disk.FULL else "")  # files.whole names its own
        text = f"{name}: {error.strerror}" if name else error.strerror
    if package := next((package for package in INSTALLED_BY if f"nstall {package} to access" in text), None):
        text += f": pip install {INSTALLED_BY[package]}"
    module = next((COMMANDS[arg][0] for arg in args if arg in COMMANDS), None)
    default = getattr(sys.modules.get(f"jaxdiff.cli.{module}"), "DEFAULT", None)
    return as_flags(text, flags_of(default) if default else ())


@contextlib.contextmanager
def logged():
    """Shows the log of jaxdiff on standard error."""
    from jaxdiff.cli.flags import as_flags

    class Formatter(logging.Formatter):
        def format(self, record):
            return as_flags(super().format(record))

    logger, handler = logging.getLogger("jaxdiff"), logging.StreamHandler()
    handler.setFormatter(Formatter("jaxdiff: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # some libraries make the root logger repeat it
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax and tensorflow-datasets log much
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


def end(message: str, code: int) -> None:
    """Ends the process with one line; inside of an `except`, and with the traceback where that was asked for."""
    if environment.is_on("JAXDIFF_TRACEBACK"):
        traceback.print_exc()
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(f"jaxdiff: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def dispatch(args: list[str]) -> None:
    """Runs the command that the arguments name.

    Raises:
      ValueError: an unknown command, or one without its first argument.
    """
    args = import_extensions(args)
    if not args or args[0] in ("-h", "--help"):
        from jaxdiff.config import names as configs
        from jaxdiff.model.shipped import names as models

        print(USAGE.format(configs=", ".join(configs()), models=", ".join(models())), end="")
        return
    command, *rest = args
    if command in ("-V", "--version", "version"):
        print(f"jaxdiff {jaxdiff.__version__}")
        return
    if command.startswith("-"):
        raise ValueError(f"{command} stands in front of the command: flags follow it, see jaxdiff --help")
    check_known("command", command, COMMANDS)
    module, first, metavar = COMMANDS[command]
    if first is not None and (not rest or rest[0].startswith("-")):
        if {"-h", "--help"} & set(rest):
            print_help(module, f"jaxdiff {command} {metavar}")
        raise ValueError(f"jaxdiff {command} needs {first}: see jaxdiff --help")
    if first is not None:
        environment.check()
        if command not in ELSEWHERE:
            environment.prepare_jax()
    run = importlib.import_module(f"jaxdiff.cli.{module}").main
    let_interrupt()
    run(*([rest] if first is None else [rest[0], rest[1:]]))


def print_help(module: str, prog: str) -> None:
    """Prints the flags of a command with their defaults where no config or model is named, and ends the process."""
    from jaxdiff.cli import flags

    flags.parse(importlib.import_module(f"jaxdiff.cli.{module}").DEFAULT, ["--help"], prog)


def import_extensions(args: list[str]) -> list[str]:
    """Imports what registers choices from outside: installed packages with an entry point "jaxdiff", and --import.

    Returns:
      The other arguments.

    Raises:
      ValueError: a module that cannot be found, or that fails.
    """
    for entry in importlib.metadata.entry_points(group="jaxdiff"):
        with of_code(f"the installed extension {entry.name}"):
            entry.load()
    while args and args[0] == "--import":
        if len(args) < 2:
            raise ValueError("--import needs a module, or the path of a Python file")
        import_module(args[1])
        args = args[2:]
    return args


def import_module(name: str) -> None:
    """Imports a module by its name, or a Python file by its path.

    Raises:
      OSError: the file is a pipe or a device.
      ValueError: there is none, or its code fails.
    """
    if not name.endswith(".py"):
        with of_code(f"--import {name}"):
            importlib.import_module(name)
        return
    from jaxdiff.files import check_regular  # here, for it imports much that other commands do without
    from jaxdiff.paths import as_path

    as_path(name)
    check_regular(name)
    if not Path(name).is_file():
        raise ValueError(f"--import {name}: there is no such file")
    spec = importlib.util.spec_from_file_location(Path(name).stem, Path(name).resolve())
    if getattr(sys.modules.get(spec.name), "__file__", None) == spec.origin:
        return  # twice in one process
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        with of_code(f"--import {name}", spec.origin):
            spec.loader.exec_module(module)
    except ValueError:
        del sys.modules[spec.name]
        raise

"""Images drawn by two checkouts of this repository, compared: do both draw the same?

    python benchmarks/checkouts.py OLD NEW --out compared            # both run all tasks, then a table is printed
    python benchmarks/checkouts.py OLD --out compared                # only OLD's results, to be reused
    python benchmarks/checkouts.py OLD NEW --out compared --reuse    # OLD runs only the tasks that compared/old lacks
    python benchmarks/checkouts.py OLD NEW --only "null-text" heun   # some of the tasks; --list prints their names

The tasks are in checkout_tasks.py. Each checkout runs them in child processes on the CPU, with the same Python, the same
input images (written by OLD) and its own cache of compiled programs. log.txt in a task's folder holds the output of its
commands.

The exit code is 1 if a task failed, if images differ by more than one of 256 levels or in more than 0.1% of their values,
or if numbers of an evaluation have a relative difference above 1e-6. The seconds in the table are of CPU time.
"""

import argparse
import contextlib
import hashlib
import json
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

import numpy as np
from checkout_tasks import RENAMED, TASKS
from PIL import Image, ImageSequence

HERE = Path(__file__).parent.resolve()
AT_ONCE = 10  # tasks in one process, whose memory grows with each program that it compiles
LEVELS, SHARE, RELATIVE = 1, 1e-3, 1e-6
OUTPUTS = {"sample": "--out {n}.png --npz", "edit": "--out {n}.png", "eval": "--out {n}.json"}


class Comparison(NamedTuple):
    """Difference between two results: in words, whether there is one, and whether it is above the tolerance."""

    text: str
    equal: bool = False
    bad: bool = True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, nargs="?", help="checkout that runs the `old` commands")
    parser.add_argument("new", type=Path, nargs="?", help="checkout that runs the `new` commands")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names of tasks")
    parser.add_argument("--out", type=Path, help="folder of results and compiled programs; by default a temporary one")
    parser.add_argument("--reuse", action="store_true", help="keep OLD's results of the same commands and inputs")
    parser.add_argument("--list", action="store_true", help="print the names of all tasks")
    args = parser.parse_args()
    if args.list:
        return print("\n".join(task.name for task in TASKS))
    if args.old is None:
        parser.error("give a checkout, or two to compare")
    if unknown := set(args.only or ()) - {task.name for task in TASKS}:
        parser.error(f"no such task: {', '.join(sorted(unknown))}; --list prints all")
    tasks = [task for task in TASKS if not args.only or task.name in args.only]
    out = (args.out or Path(tempfile.mkdtemp(prefix="checkouts_"))).resolve()
    out.mkdir(parents=True, exist_ok=True)
    inputs = input_digest(args.old, out, args.reuse)
    run(args.old, out, "old", tasks, inputs, args.reuse)
    if args.new is None:
        return
    run(args.new, out, "new", tasks, inputs, reuse=False)
    found = {task.name: compare(out / "old" / task.name, out / "new" / task.name) for task in tasks}
    print_table(found, out)
    sys.exit(any(one.bad for one in found.values()))


def print_table(found, out):
    width = max(map(len, found))
    print(f"\n{'task':<{width}}     old     new  difference")
    for name, one in found.items():
        seconds = (read_result(out / side / name).get("seconds", float("nan")) for side in ("old", "new"))
        print(f"{name:<{width}}  " + "".join(f"{s:>5.1f} s " for s in seconds), "DIFFERS: " * one.bad + one.text)
    equal, bad = (sum(getattr(one, what) for one in found.values()) for what in ("equal", "bad"))
    print(f"\n{len(found)} tasks: {equal} equal, {len(found) - equal - bad} within the tolerance, {bad} not ({out})")


# Running the tasks.


def input_digest(checkout, out, reuse):
    """Writes the input images unless they can be reused; returns a digest of them."""
    folder = out / "inputs"
    if not (reuse and folder.exists()):
        shutil.rmtree(folder, ignore_errors=True)
        in_child(checkout, out, "old", "checkout_tasks.write_inputs", folder).check_returncode()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def in_child(checkout, out, side, function, *paths):
    """Calls MODULE.NAME of this folder with paths, in a new process where `import jaxdiff` finds the checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX", "XLA"))}
    environment |= {"PYTHONPATH": str(checkout.resolve()), "JAX_PLATFORMS": "cpu", "JAXDIFF_TRACEBACK": "1"}
    environment["JAX_COMPILATION_CACHE_DIR"] = str(out / f"cache_{side}")
    code = f"import sys; from pathlib import Path; sys.path.append({str(HERE)!r}); import {function.split('.')[0]}; "
    code += f"{function}(*map(Path, sys.argv[1:]))"
    return subprocess.run([sys.executable, "-P", "-c", code, *paths], env=environment, cwd=out)


def commands(task, side, out):
    """Words of each command of a task, with its `--out`."""
    lines = task.new if side == "new" and task.new is not None else task.old
    lines = [lines] if isinstance(lines, str) else lines
    complete = [f"{line} {OUTPUTS.get(line.split()[0], '')}" for line in lines]
    paths, names = {"inputs": shlex.quote(str(out / "inputs"))}, RENAMED if side == "new" else {}
    return [
        [names.get(word, word) for word in shlex.split(line.format(n=n, **paths))] for n, line in enumerate(complete)
    ]


def run(checkout, out, side, tasks, inputs, reuse):
    """Runs tasks with a checkout, `AT_ONCE` of them in each child process.

    Args:
      checkout: its directory.
      out: folder of all results.
      side: "old" or "new".
      tasks: list of `Task`.
      inputs: digest of the input images.
      reuse: leave out tasks that have a result of the same commands and inputs.
    """
    plan, commits = [], set()
    describe = subprocess.run(
        ["git", "-C", checkout, "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    about = {"checkout": str(checkout.resolve()), "commit": describe.stdout.strip() or "unknown", "inputs": inputs}
    for task in tasks:
        result = about | {"commands": commands(task, side, Path())}  # without the path of `out`, which may be moved
        earlier = read_result(out / side / task.name)
        if reuse and earlier.get("error", "") is None and all(earlier[k] == result[k] for k in ("inputs", "commands")):
            commits.add(earlier["commit"])
            continue
        shutil.rmtree(out / side / task.name, ignore_errors=True)
        plan.append([task.name, commands(task, side, out), result])
    if commits:
        print(f"{side}: {len(tasks) - len(plan)} results are reused, of commit {', '.join(commits)}", flush=True)
    if plan:
        print(f"{side}: {len(plan)} tasks with {about['checkout']}, commit {about['commit']}", flush=True)
    for start in range(0, len(plan), AT_ONCE):
        (out / f"plan_{side}.json").write_text(json.dumps(plan[start : start + AT_ONCE]))
        in_child(checkout, out, side, "checkouts.run_plan", out / f"plan_{side}.json", out / side)


def run_plan(plan, out):
    """Runs the tasks of a plan in this process, each in a new folder in `out`."""
    import jaxdiff

    plan, checkout = json.loads(plan.read_text()), Path(jaxdiff.__file__).parents[1].resolve()
    if str(checkout) != plan[0][2]["checkout"]:
        sys.exit(f"the jaxdiff that was imported is that of {checkout}")
    for name, command_list, about in plan:
        (out / name).mkdir(parents=True)
        os.chdir(out / name)
        start, error = time.process_time(), None
        with Path("log.txt").open("w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            for command in command_list:
                print(f"$ jaxdiff {shlex.join(command)}", flush=True)
                error = error or error_of(command)
        seconds = time.process_time() - start
        Path("result.json").write_text(json.dumps(about | {"seconds": seconds, "error": error}))
        print(f"  {name}: {error or f'{seconds:.1f} s'}", flush=True)


def error_of(command):
    """Runs a command of `jaxdiff` in this process; returns its error in one line, or None."""
    sys.argv = ["jaxdiff", *command]
    try:
        runpy.run_module("jaxdiff", run_name="__main__")
    except SystemExit as stop:
        return f"exit code {stop.code}, see log.txt" if stop.code else None
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}, see log.txt"
    return None


def read_result(folder):
    """Result of a task; {} if it has not been run."""
    path = folder / "result.json"
    return json.loads(path.read_text()) if path.exists() else {}


# Comparing their results.


def compare(old, new):
    """`Comparison` of the results of a task in two folders."""
    for side, folder in (("old", old), ("new", new)):
        if error := read_result(folder).get("error", "did not end"):
            return Comparison(f"{side}: {error}")
    (images, numbers), (other_images, other_numbers) = written(old), written(new)
    one_sided = (images.keys() ^ other_images.keys()) | (numbers.keys() ^ other_numbers.keys())
    if one_sided or not images | numbers:
        return Comparison(f"only one of them wrote {', '.join(sorted(one_sided)) or 'nothing, and so did the other'}")
    for name, image in images.items():
        if image.shape != other_images[name].shape:
            return Comparison(f"{name} has the shapes {image.shape} and {other_images[name].shape}")
    parts = [image_difference(images, other_images)] if images else []
    parts += [number_difference(numbers, other_numbers)] if numbers else []
    return Comparison(
        "; ".join(one.text for one in parts), all(one.equal for one in parts), any(one.bad for one in parts)
    )


def written(folder):
    """Images {file: uint8 array} and numbers {file and path in it: number} that the commands of a task wrote."""
    images, numbers = {}, {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".npz":
            images[path.name] = np.load(path)["images"]
        elif path.suffix == ".gif":
            images[path.name] = np.stack([frame.convert("RGB") for frame in ImageSequence.Iterator(Image.open(path))])
        elif path.suffix == ".png" and path.stem.isdecimal() and not path.with_suffix(".npz").exists():
            images[path.name] = np.asarray(Image.open(path))
        elif path.suffix == ".json" and path.stem.isdecimal():
            numbers |= flat(json.loads(path.read_text())["metrics"], path.stem)
    return images, numbers


def flat(tree, path):
    """Numbers in nested dictionaries and lists, by path."""
    if isinstance(tree, dict | list):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {name: value for key, one in items for name, value in flat(one, f"{path}/{key}").items()}
    return {path: tree} if isinstance(tree, int | float) else {}


def image_difference(old, new):
    off = np.concatenate([np.abs(old[name].astype(int) - new[name]).ravel() for name in old])
    most, share = off.max(), (off > 0).mean()
    if not most:
        return Comparison(f"equal ({off.size} values)", equal=True, bad=False)
    return Comparison(
        f"up to {most} levels, {share:.3%} of {off.size} values", bad=bool(most > LEVELS or share > SHARE)
    )


def number_difference(old, new):
    off = {name: abs(old[name] - new[name]) / (abs(old[name]) or 1.0) for name in old}
    worst = max(off, key=off.get)
    if not any(off.values()):
        return Comparison(f"equal ({len(off)} numbers)", equal=True, bad=False)
    return Comparison(
        f"{worst}: {old[worst]:g} and {new[worst]:g}, {off[worst]:.1e} of it", bad=not max(off.values()) <= RELATIVE
    )


if __name__ == "__main__":
    main()

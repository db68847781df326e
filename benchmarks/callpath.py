"""The call path of a command through the packages of jaxdiff, and where it climbs from a lower floor to a higher one.

    python benchmarks/callpath.py sample captioned "a red <star> on white" --lora star
    python benchmarks/callpath.py edit captioned --method p2p --source "a red 7 on blue" --prompt "a green 7 on blue"
    python benchmarks/callpath.py train digits --run-dir /tmp/run --train.steps 2 --train.steps-per-call 1 ...

The command runs under a profiler, in all threads, up to the first call of `samplers.sample` or `samplers.chunks` (a
training comes to it in its first preview), or to its end with --whole. Calls between packages are printed once each, in the
order of their first occurrence and with their number; ^ marks a climb and c a callback to a higher floor.

A call leads from the nearest function of jaxdiff on the stack, skipping other libraries in between, to another function of
jaxdiff. It is a climb if

1. the called function's package is on a higher floor than the caller's, see `FLOORS`; and
2. the caller's code names the function, also as an attribute, or the class for a constructor. All other calls upwards are
   callbacks: values that a higher floor has handed down, such as nested functions, ticks of a progress bar, entries of
   registries, and generators that are resumed where they were not made.

Calls made while a module is imported do not count. The number to compare is that of distinct pairs of functions that climb.
Also printed: distinct pairs of modules, all calls, the number of functions that the top floor calls, and how often a reader
who follows the list returns to a caller on a higher floor, which cannot be 0.
"""

import argparse
import inspect
import itertools
import sys
import threading
from collections import Counter

FLOORS = [  # from the top
    {"cli", "ui"},
    {"plan"},
    {"eval"},
    {"train"},
    {"pipeline"},
    {"model", "pretrained"},
    {"config"},
    {"data", "editing", "adapt", "latent", "text", "objectives", "testing"},
    {"samplers"},
    {"guidance", "denoise"},
    {"nets", "schedules", "process", "timesteps"},
    {"types", "errors", "progress", "devices", "sharding", "xla"},
]
HEIGHT = {name: len(FLOORS) - i for i, floor in enumerate(FLOORS) for name in floor}
END = {"sample", "chunks"}  # functions of samplers
CONSTRUCTORS = {"__init__", "__new__", "__post_init__"}
IMPLICIT = {"<module>", "__hash__", "__eq__", "__repr__"}  # called by Python itself


class Reached(BaseException):
    """Ends the command once it has come to the sampler."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--whole", action="store_true", help="go on to the end of the command")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="words after `jaxdiff`")
    args = parser.parse_args()
    from jaxdiff import cli

    edges = Counter()
    profile = profiler(edges, args.whole)
    threading.setprofile(profile)
    sys.setprofile(profile)
    end = "the end of the command"
    try:
        cli.main(args.command)
    except Reached:
        end = "the sampler"
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    print_edges(edges, end)


def profiler(edges, whole):
    """A function for `sys.setprofile` that counts calls in edges[caller, callee, kind]."""

    def profile(frame, event, arg):
        package = package_of(frame)
        if event != "call" or package is None or frame.f_code.co_name in IMPLICIT:
            return
        caller = frame.f_back
        while caller is not None and package_of(caller) is None:
            caller = caller.f_back
        if caller is not None and caller.f_code.co_name != "<module>" and package_of(caller) != package:
            edges[name_of(caller), name_of(frame), kind(caller, frame)] += 1
        if not whole and package == "samplers" and frame.f_code.co_name in END:
            raise Reached

    return profile


def package_of(frame):
    """First part of the module's name below jaxdiff; None for other libraries and for jaxdiff itself."""
    root, _, rest = frame.f_globals.get("__name__", "").partition(".")
    return rest.split(".")[0] if root == "jaxdiff" and rest.split(".")[0] in HEIGHT else None


def name_of(frame):
    """(module below jaxdiff, function) of a frame; of a constructor, the class."""
    code, module = frame.f_code, frame.f_globals["__name__"].removeprefix("jaxdiff.")
    if code.co_name not in CONSTRUCTORS or not code.co_varnames:
        return module, code.co_qualname
    made = frame.f_locals[code.co_varnames[0]]  # self, or the class
    return module, (made if isinstance(made, type) else type(made)).__name__


def kind(caller, frame):
    """One of "climb", "callback" and "down", which includes calls on one floor."""
    if HEIGHT[package_of(frame)] <= HEIGHT[package_of(caller)]:
        return "down"
    (_, name), names = name_of(frame), caller.f_code.co_names
    own_name = "<locals>" not in name and name.split(".")[-1] in names
    imported = [inspect.unwrap(caller.f_globals[one]) for one in names if callable(caller.f_globals.get(one))]
    other_name = any(getattr(one, "__code__", None) is frame.f_code for one in imported)
    return "climb" if own_name or other_name else "callback"


def print_edges(edges, end):
    marks = {"down": " ", "climb": "^", "callback": "c"}
    for (caller, callee, what), count in edges.items():
        print(f"{marks[what]} {count:>6}  {'.'.join(caller)} -> {'.'.join(callee)}")
    heights = [HEIGHT[caller[0].split(".")[0]] for caller, _, _ in edges]
    top = {callee for (_, callee, _), height in zip(edges, heights) if height == len(FLOORS)}
    returns = sum(later > earlier for earlier, later in itertools.pairwise(heights))
    print(f"\nup to {end}: {sum(edges.values())} calls between packages, {len(edges)} pairs of functions")
    print(f"the top floor calls {len(top)} functions below it; {returns} returns to a higher floor")
    for what, title in (("climb", "climbs"), ("callback", "callbacks to a higher floor")):
        found = {pair: count for pair, count in edges.items() if pair[2] == what}
        modules = {(caller[0], callee[0]) for caller, callee, _ in found}
        print(f"{title}: {len(found)} pairs of functions, {len(modules)} pairs of modules, {sum(found.values())} calls")
        for one in sorted(modules):
            print("    " + " -> ".join(one))


if __name__ == "__main__":
    main()

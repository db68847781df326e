"""The section of benchmarks/editing.py on time and compilations."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from edited import Painter, described, edits, held_out, middle, rows_of, swapped
from PIL import Image

from jaxdiff import Cond, editing, guidance, samplers, timesteps
from jaxdiff.data.sources import captioned
from jaxdiff.editing.null_text import _steps as searching

WINDOWS = {"cross_attention": 0.2, "self_attention": 1.0}  # shares of the way for which attention is taken over


def cost(args):
    """Time of edits beside sampling, in one run, and number of compilations."""
    del args
    painter, levels, found = Painter(), timesteps.grid(1000, 50), []
    sources, targets, _ = swapped(8)
    both, target = painter.guided(sources), Cond(context=painter.reads(targets))
    z_T = samplers.noise(samplers.keys_for(jax.random.key(1), 8), painter.shape)
    edit = edits(painter.words, sources, targets, **WINDOWS)
    args, blend = (painter.denoise, painter.schedule, levels, z_T, both, target, 3.0), blended(painter, edit, 1.0)
    run = lambda edit, **how: editing.sample_pairs(*args, edit=edit, **how)
    cases = (lambda: run(None), lambda: run(edit), lambda: run(edit, sampler=blend, collect=editing.collect_maps()))
    plain, edited, all_of_it = (middle(case, 5) for case in cases)
    same = np.array_equal(run(None)[0], run(editing.no_edit(16, painter.words.length))[0])
    found.append(
        f"Prompt-to-prompt of 8 pairs takes {edited / plain:.2f} times plain sampling of those rows ({edited:.1f} s and "
        f"{plain:.1f} s), and {all_of_it / plain:.2f} times with local blend and maps of where words looked. An edit that "
        f"changes nothing leaves the same bits: {same}."
    )
    found += [
        "",
        "| seven more runs with other prompts, images, scales, windows ... | programs compiled |",
        "|---|---|",
    ]
    found += [f"| {how} | {recompiled(run)} |" for how, run in again(painter, levels, z_T, sources, targets).items()]

    examples, x = held_out("captioned:test", 2)
    z, both = painter.encode(x), painter.guided([one["caption"] for one in examples])
    path = jax.block_until_ready(editing.invert(painter.denoise, painter.schedule, levels, z, both.cond))
    seconds = []
    for i, scale in enumerate((7.5, 5.0)):
        start, own = time.perf_counter(), slice(i, i + 1)
        args = painter.denoise, painter.schedule, levels, path[:, own], rows_of(both, own), scale
        jax.block_until_ready(editing.null_text(*args))
        seconds.append(time.perf_counter() - start)
    found += [
        "",
        f"Null-text inversion of one held-out image in 50 steps: {seconds[0]:.1f} s with compiling, {seconds[1]:.1f} s of "
        f"another one.",
        "",
        *commands(examples[0]),
    ]
    return "\n".join(found) + "\n"


def blended(painter, edit, number):
    """Local blend of all words."""
    tokens = np.full([len(edit.source_offset), painter.words.length], number)
    return editing.local_blend(samplers.ddim(), tokens, edit.source_offset, size=8, threshold=number / 10)


def recompiled(run):
    """Number of programs that seven runs compile after a first one."""
    made = lambda: samplers.base._sample._cache_size() + searching._cache_size()
    jax.block_until_ready(run(2))
    before = made()
    for number in range(3, 10):
        jax.block_until_ready(run(number))
    return made() - before


def again(painter, levels, z_T, sources, targets):
    """Every method as a function of a number that changes all that a user could."""
    denoise, schedule, key = painter.denoise, painter.schedule, jax.random.key(0)
    read = lambda number: (sources, targets) if number % 2 else (targets, sources)

    def edited_pairs(number, sampler=lambda edit: samplers.ddim(), nulls=False):
        old, new = read(number)
        make = editing.refine if number % 3 else editing.replace
        edit = edits(painter.words, old, new, make, cross_attention=number / 10, self_attention=(number / 20, 1.0))
        edit = edit._replace(token_scale=edit.token_scale * number)  # as re-weighting does
        how = {"uncond_embeddings": editing.negative_prompt_inversion(levels, painter.guided(old))} if nulls else {}
        args = (
            denoise,
            schedule,
            levels,
            z_T * number,
            painter.guided(old),
            Cond(context=painter.reads(new)),
            float(number),
        )
        return editing.sample_pairs(*args, edit=edit, sampler=sampler(edit), **how)[0]

    def direct(number):
        path = jnp.full([51, 16, *painter.shape], float(number))
        return edited_pairs(
            number, lambda edit: editing.direct_inversion(samplers.ddim(), levels, path, edit.source_offset == 0)
        )

    def inpainted(number, from_level=1000):
        known = (np.arange(painter.shape[0]) < number)[:, None, None]
        sampler, guide = (
            editing.inpaint(samplers.ddim(), z_T * number, known, number),
            guidance.cfg(denoise, float(number)),
        )
        grid = np.linspace(from_level, 0, 11).round().astype(int)
        return editing.sdedit(key, sampler, guide, schedule, grid, z_T, painter.guided(read(number)[0]))

    def searched_for(number):
        both, few = painter.guided(read(number)[0]), levels[-6:]
        path = editing.invert(denoise, schedule, few, z_T * number, both.cond, number % 4)
        return editing.null_text(
            denoise, schedule, few, path, both, float(number), editing.null_text_config(5, number, number / 99)
        )

    def bridged(number):
        both = [Cond(context=painter.reads(of)) for of in read(number)]
        return editing.bridge(
            denoise, denoise, schedule, levels, z_T, *both, inversion_sampler=editing.ddim_inversion(number % 4)
        )

    return {
        "prompt-to-prompt": edited_pairs,
        "the same with nulls": lambda number: edited_pairs(number, nulls=True),
        "with local blend": lambda number: edited_pairs(number, lambda edit: blended(painter, edit, number)),
        "direct inversion": direct,
        "inversion and null-text": searched_for,
        "sdedit with inpainting": lambda number: inpainted(number, 100 * number),
        "bridge": bridged,
    }


def commands(example):
    """Time of `jaxdiff edit` in a new process, with nothing compiled before."""
    new = next(name for i, name in enumerate(captioned.COLOURS) if i not in (example["colour"], example["background"]))
    source = described(example)
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(example["image"]).save(Path(folder) / "in.png")

        def seconds(*flags, cache):
            target = source.replace(list(captioned.COLOURS)[example["colour"]], new, 1)
            command = [sys.executable, "-m", "jaxdiff", "edit", "captioned", "--prompt", target, *flags, "--overwrite"]
            start, env = time.perf_counter(), os.environ | {"XDG_CACHE_HOME": str(Path(folder) / cache)}
            env.pop("JAX_COMPILATION_CACHE_DIR", None)
            subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
            return time.perf_counter() - start

        whole = ("--image", "in.png", "--source", source, "--save-inversion", "kept.safetensors", "--method")
        found = {how: seconds(*whole, how, cache=how) for how in ("direct", "negative-prompt", "null-text")}
        once_more = seconds("--from-inversion", "kept.safetensors", cache="null-text")
    says = ", ".join(f"`{how}` {took:.0f} s" for how, took in found.items())
    return [f"`jaxdiff edit` of one held-out image, a new process with nothing compiled before: {says}; another edit from "
            f"the inversion that was kept, {once_more:.0f} s."]  # fmt: skip

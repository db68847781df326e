"""Text between two comments of a documentation page, as benchmarks write it."""

from pathlib import Path


def put(page: Path, begin: str, end: str, written: str) -> None:
    """Replaces what stands between two lines."""
    before, rest = page.read_text().split(begin)
    page.write_text(before + begin + written + end + rest.split(end)[1])


def run_sections(sections: dict, args, page: Path, script: str) -> None:
    """Prints those sections that `args.only` names, or all, and writes them where `args.write` asks for it."""
    for name in args.only or sections:
        written = sections[name](args)
        print(written, flush=True)
        if args.write:
            put(page, f"<!-- {name}: written by benchmarks/{script} -->\n", f"<!-- end of {name} -->\n", written)

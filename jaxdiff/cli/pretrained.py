"""`jaxdiff pretrained`."""

from jaxdiff.model import shipped


def main(args: list[str]) -> None:
    """`jaxdiff pretrained`."""
    if args and args[0] not in ("-h", "--help"):
        raise ValueError(f"jaxdiff pretrained takes no arguments, and was given {' '.join(args)}")
    for one in shipped.listing():
        print(f"{one.name:<18} {one.megabytes:4.1f} MB  {one.description}")

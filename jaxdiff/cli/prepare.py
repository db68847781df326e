"""`jaxdiff prepare`."""

import dataclasses

from jaxdiff import data, progress
from jaxdiff.cli.files import located
from jaxdiff.cli.flags import parse
from jaxdiff.data import encoded
from jaxdiff.pipeline import prepare


@dataclasses.dataclass(frozen=True)
class PrepareFlags:
    """Writes the examples of a source once, decoded, resized and encoded: jaxdiff prepare SOURCE OUT.

    OUT is a folder, which --data.source records:OUT trains on. What is there already stays: the same command goes on where
    it was stopped, and several processes share the work.

    Attributes:
      image_shape: height, width and channels of the images; those of the data set where it has one size.
      resize: crop and resize images of a data set that has another size.
      skip_broken: leave out files that cannot be read.
      codec: autoencoder that encodes the images; without one they stay pixels.
      text_encoder: CLIP that encodes the captions; without one they stay texts.
      skip_blocks: its last blocks that are left out, as `--latent.skip-blocks` of training.
      processes: number of processes that write OUT.
      process: number of this one, from 0.
    """

    image_shape: tuple[int, int, int] | None = None
    resize: bool = False
    skip_broken: bool = False
    codec: str | None = None
    text_encoder: str | None = None
    skip_blocks: int = 0
    processes: int = 1
    process: int = 0


DEFAULT = PrepareFlags()


def main(name: str, args: list[str]) -> None:
    """`jaxdiff prepare SOURCE OUT ...`."""
    if not args or args[0].startswith("-"):
        if {"-h", "--help"} & set(args):
            parse(PrepareFlags(), ["--help"], f"jaxdiff prepare {name} OUT")
        raise ValueError("jaxdiff prepare needs a source and where to write it: jaxdiff prepare SOURCE OUT")
    folder, flags = located(args[0], "OUT"), parse(PrepareFlags(), args[1:], f"jaxdiff prepare {name}")
    if not 0 <= flags.process < flags.processes:
        raise ValueError(f"`process`={flags.process} must be from 0 to {flags.processes - 1}, less than `processes`")
    source = data.load(data.parse(name, like=flags), flags.image_shape)
    prepare.check(source, name, folder)
    encoders = prepare.Encoders(flags.codec, flags.text_encoder, flags.skip_blocks)
    mine = [shard for shard in encoded.shards(len(source)) if shard.number % flags.processes == flags.process]
    missing = sum(len(shard) for shard in mine if not encoded.has_shard(folder, shard))
    with progress.bar("preparing", missing, "examples", delay=2.0) as advance:
        whole = prepare.prepare(source, name, folder, encoders, (flags.process, flags.processes), advance)
    print(f"records      {folder}" + ("" if whole else ", which other processes still write"))
    if whole:
        print(f"train on it  --data.source records:{folder}")

"""Examples of a source, decoded and resized once, and encoded by models where that is asked for: `jaxdiff prepare`."""

import dataclasses
from collections.abc import Callable

from etils import epath

from jaxdiff import model as models
from jaxdiff.config import Config, Data, Latent
from jaxdiff.data import Source, captions, derived, records
from jaxdiff.data import encoded as files
from jaxdiff.model.frozen_models import FrozenModels
from jaxdiff.pipeline import encoding


@dataclasses.dataclass(frozen=True)
class Encoders:
    """Models that encode examples, by what they encode.

    Attributes:
      codec: autoencoder of the images; None keeps them as uint8.
      text_encoder: CLIP or text transformer of the captions; None keeps these as texts.
      skip_blocks: see `config.Latent`.
    """

    codec: str | None = None
    text_encoder: str | None = None
    skip_blocks: int = 0


def opened(encoders: Encoders) -> tuple[Latent, FrozenModels]:
    """The models, and how a config would name them.

    Raises:
      ValueError, OSError: one of them cannot be read, or is of another kind.
    """
    latent = Latent(encoders.codec, None, None, encoders.text_encoder, encoders.skip_blocks)
    submodels = {}
    if encoders.codec:
        submodels["codec"] = models.load(encoders.codec)
        if submodels["codec"].config.role != "autoencoder":
            raise ValueError(f"`codec` {encoders.codec} is not an autoencoder")
    if encoders.text_encoder:
        submodels["text_encoder"] = models.text_transformer_of(models.load(encoders.text_encoder))
    whole = models.Model(config=Config(latent=latent), params=None, submodels=submodels)
    return latent, FrozenModels(submodels, codec=whole.codec, text_encoder=whole.text_encoder)


def check(source: Source, name: str, folder: epath.Path) -> None:
    """Refuses a source that is encoded already, and a folder that records cannot be written to.

    Args:
      source: examples, as `data.load` opens them.
      name: of the source.
      folder: folder of the records.

    Raises:
      ValueError: one line that says what to do.
    """
    if held := derived.held(source):
        raise ValueError(f"{name} holds {held} already: prepare the data that it was made of")
    encoding.check_local(folder, "choose a folder on one")


def prepare(
    source: Source,
    name: str,
    folder: epath.Path,
    encoders: Encoders = Encoders(),
    process: tuple[int, int] = (0, 1),
    advance: Callable[[int], None] = lambda count: None,
) -> bool:
    """Writes the examples of a source as records, those shards that are missing; several processes may share them.

    Args:
      source: examples, as `data.load` opens them.
      name: of the source, for the manifest.
      folder: where to, new or begun for the same.
      encoders: models that encode them.
      process: index of this process, and how many there are; all write into one folder.
      advance: called with numbers of examples that are done.

    Returns:
      Whether all is there; not so while other processes are still at it.

    Raises:
      FileExistsError: the folder holds something else.
      ValueError, OSError: the data or a model cannot be read, captions are missing, or there is no room; as `check`.
    """
    check(source, name, folder)
    latent, frozen = opened(encoders)
    index, count = process
    if frozen.text_encoder and not source.captioned:
        raise ValueError(f"`text_encoder` {encoders.text_encoder} encodes captions, and {source.no_captions_reason}")
    about = records.about_of(source, name, encoding.made_by(latent, frozen))
    records.begin(folder, about)
    if source.captioned and index == 0 and not (folder / records.CAPTIONS).exists():
        records.write_captions(folder, captions.of(source).stored)
    config = Config(data=Data(image_shape=source.image_shape), latent=latent)
    if index == 0:
        encoding.warn_of_truncation(config, source, frozen)
    mine = (shard for shard in files.shards(len(source)) if shard.number % count == index)
    encoding.write_missing(config, source, frozen, folder, mine, advance)
    return records.finish(folder)

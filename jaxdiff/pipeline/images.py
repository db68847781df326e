"""Pictures: grids, single files, animations."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from etils import epath
from PIL import Image, ImageDraw, ImageFont

from jaxdiff.files import OUTPUT_MARK, make_output_dir, whole
from jaxdiff.paths import as_path

TITLE_LINES = 12  # of a title, which is cut there
SIDES = {".webp": 16383, ".gif": 65535}  # most pixels of a side in files of these formats


def to_uint8(images) -> np.ndarray:
    """Images in [-1, 1] to uint8, rounded and clipped."""
    return np.clip(np.round((np.asarray(images, np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)


def grid(images: np.ndarray, columns: int | None = None, pad: int = 2) -> np.ndarray:
    """Lays images out in rows.

    Args:
      images: uint8 [N, H, W, C].
      columns: images per row; about sqrt(N) by default.
      pad: white pixels between and around.

    Returns:
      uint8 [rows (H + pad) + pad, columns (W + pad) + pad, C].
    """
    N, H, W, C = images.shape
    columns = columns or math.ceil(math.sqrt(N))
    rows = math.ceil(N / columns)
    sheet = np.full((rows * (H + pad) + pad, columns * (W + pad) + pad, C), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * (H + pad) + pad, (i % columns) * (W + pad) + pad
        sheet[y : y + H, x : x + W] = image
    return sheet


def arranged(images: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Images in the order in which `grid` lays them out by rows.

    Args:
      images: uint8 [..., N, H, W, C].
      places: which of them stands where, int [rows, columns]; -1 is none, which is white.

    Returns:
      uint8 [..., rows * columns, H, W, C].
    """
    places = places.reshape(-1)
    shown = np.take(images, places, axis=-4)
    shown[..., places < 0, :, :, :] = 255
    return shown


def to_pil(image: np.ndarray, scale: int = 1) -> Image.Image:
    """uint8 [H, W, 1 or 3] as a picture, each pixel enlarged to a square of `scale` pixels."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def sheet_size(image_shape: tuple[int, int, int], places: np.ndarray, titles: Sequence[str] = ()) -> tuple[int, int]:
    """Width and height in pixels of the `sheet` of images at such places."""
    (H, W, _), (rows, columns), pad = image_shape, places.shape, 2
    scale = max(1, 64 // W)
    width, pads = (columns * (W + pad) + pad) * scale, max(1, len(titles)) * pad
    return width, (rows * (H + pad) + pads) * scale + sum(_title(title, width, "L").height for title in titles)


def check_animation(path: epath.PathLike, size: tuple[int, int]) -> None:
    """Raises ValueError for pictures of a width and height that the file's format does not have."""
    ending = Path(path).suffix.lower()
    if max(size) > SIDES[ending]:
        raise ValueError(
            f"`animation` of {size[0]}x{size[1]} pixels is too large for a {ending}, which has at most {SIDES[ending]} a "
            "side: ask for fewer images by `num`, or leave it out"
        )


def sheet(images: np.ndarray, columns: int | None = None, titles: Sequence[str] = ()) -> Image.Image:
    """Images in rows as one picture, small ones enlarged so that they can be seen.

    Args:
      images: uint8 [N, H, W, C].
      columns: images per row; about sqrt(N) by default.
      titles: each stands above its share of the rows, of which each has equally many.
    """
    scale = max(1, 64 // images.shape[2])
    parts = [to_pil(grid(part, columns), scale) for part in np.split(images, max(1, len(titles)))]
    if not titles:
        return parts[0]
    width = parts[0].width
    bands = [band for title, part in zip(titles, parts) for band in (_title(title, width, part.mode), part)]
    whole = Image.new(parts[0].mode, (width, sum(band.height for band in bands)), "white")
    top = 0
    for band in bands:
        whole.paste(band, (0, top))
        top += band.height
    return whole


def panels(shown: Sequence[tuple[str, np.ndarray]], columns: int = 4, side: int = 128) -> Image.Image:
    """Images side by side, each below its own title.

    Args:
      shown: pairs of a title and an image uint8 [H, W, C], in the middle of the width of the widest.
      columns: number in a row.
      side: least width of the widest in pixels.
    """
    scale = max(1, side // max(image.shape[1] for _, image in shown))
    cells = [(title, to_pil(image, scale)) for title, image in shown]
    width, height = (max(getattr(cell, side) for _, cell in cells) for side in ("width", "height"))
    mode = cells[0][1].mode
    bands = [_title(title, width, mode) for title, _ in cells]
    above, gap, columns = max(band.height for band in bands), 4, min(columns, len(cells))
    rows = math.ceil(len(cells) / columns)
    whole = Image.new(mode, (columns * (width + gap) + gap, rows * (above + height + gap)), "white")
    for i, (band, (_, picture)) in enumerate(zip(bands, cells)):
        left, top = gap + i % columns * (width + gap), i // columns * (above + height + gap)
        whole.paste(band, (left, top + above - band.height))
        whole.paste(picture, (left + (width - picture.width) // 2, top + above))
    return whole


def _title(text, width, mode, size=13, pad=4):
    """A text on white, in as many lines as it needs, up to `TITLE_LINES`."""
    font, lines = ImageFont.load_default(size), [""]
    for word in text.split():
        if len(lines) > TITLE_LINES:
            lines = [*lines[: TITLE_LINES - 1], "..."]
            break
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width - 2 * pad:
            lines.append(word)
        else:
            lines[-1] = longer
    band = Image.new(mode, (width, len(lines) * (size + pad) + pad), "white")
    ImageDraw.Draw(band).multiline_text((pad, pad // 2), "\n".join(lines), "black", font, spacing=pad)
    return band


def save_png(path: epath.PathLike, picture: Image.Image) -> None:
    """Writes a picture as PNG, whole or not at all."""
    with whole(path) as file:
        picture.save(file, "PNG")


def save_grid(path: epath.PathLike, images: np.ndarray, columns: int | None = None, titles: Sequence[str] = ()) -> Path:
    """Writes uint8 images [N, H, W, C] as one PNG, see `sheet`."""
    save_png(path, sheet(images, columns, titles))
    return path


def save_each(directory: Path, images: np.ndarray) -> Path:
    """Writes uint8 images [N, H, W, C] as 00000.png, 00001.png, ... in their own size.

    Of a directory that was made for such images, those of an earlier time that have higher numbers are removed.
    """
    directory = as_path(directory)
    make_output_dir(directory)
    for i, image in enumerate(images):
        save_png(directory / f"{i:05d}.png", to_pil(image))
    if (directory / OUTPUT_MARK).exists():
        for path in directory.iterdir():
            if re.fullmatch(r"\d{5,}\.png", path.name) and int(path.stem) >= len(images):
                path.unlink()
    return directory


def save_animation(
    path: Path, frames: np.ndarray, columns: int | None = None, titles: Sequence[str] = (), milliseconds: int = 60
) -> Path:
    """Writes frames [F, N, H, W, C] of grids, see `sheet`, as an animated .gif or .webp that rests on the last."""
    pictures = [sheet(frame, columns, titles) for frame in frames]
    durations = [milliseconds] * (len(pictures) - 1) + [1500]
    kind = Path(path).suffix[1:].upper()
    with whole(path) as file:
        pictures[0].save(file, kind, save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return path

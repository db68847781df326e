"""Pictures: grids, single files, animations."""

import io
import math
from pathlib import Path

import numpy as np
from etils import epath
from PIL import Image


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


def save_grid(path: epath.PathLike, images: np.ndarray, columns: int | None = None) -> Path:
    """Writes uint8 images [N, H, W, C] as one PNG, small images enlarged so that they can be seen."""
    file = io.BytesIO()
    to_pil(grid(images, columns), scale=max(1, 64 // images.shape[2])).save(file, "PNG")
    epath.Path(path).write_bytes(file.getvalue())
    return path


def save_each(directory: Path, images: np.ndarray) -> Path:
    """Writes uint8 images [N, H, W, C] as 00000.png, 00001.png, ... in their own size."""
    directory.mkdir(exist_ok=True)
    for i, image in enumerate(images):
        to_pil(image).save(directory / f"{i:05d}.png")
    return directory


def save_animation(path: Path, frames: np.ndarray, columns: int | None = None, milliseconds: int = 60) -> Path:
    """Writes frames [F, N, H, W, C] of grids as an animated .gif or .webp that rests on the last."""
    scale = max(1, 64 // frames.shape[3])
    pictures = [to_pil(grid(frame, columns), scale) for frame in frames]
    durations = [milliseconds] * (len(pictures) - 1) + [1500]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return path

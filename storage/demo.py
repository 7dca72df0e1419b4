"""The built-in demo images: drawn flowers that compress and decode like photographs, for a first run with no data.

``python -m storage.demo --out DIR --count N``. Five classes, train and validation, deterministic for a seed. Detail comes from
fractal noise and grain: a flat drawing would compress and decode far too well to stand in for a photograph.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from storage import console
from storage.errors import DataError, UsageError

CLASSES = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
VALIDATION_SHARE = 0.2
QUALITY = 76

# Petals: how many, how long and how wide as a share of the flower's radius, colour (RGB), radius and colour of the centre.
_FLOWERS: dict[str, tuple[int, float, float, tuple[int, int, int], float, tuple[int, int, int]]] = {
    "daisy": (16, 1.0, 0.16, (238, 236, 230), 0.28, (226, 178, 32)),
    "dandelion": (46, 1.0, 0.06, (240, 202, 40), 0.12, (214, 160, 24)),
    "roses": (0, 1.0, 0.5, (188, 32, 58), 0.0, (150, 20, 40)),
    "sunflowers": (20, 1.0, 0.17, (244, 180, 26), 0.46, (82, 52, 26)),
    "tulips": (0, 1.0, 0.4, (206, 84, 164), 0.0, (150, 50, 110)),
}


def draw(out: Path, count: int = 1000, seed: int = 0, progress: Callable[[int, int], None] | None = None) -> None:
    """Write ``count`` JPEG files to ``out/SPLIT/CLASS/FILE``; ``progress(done, count)`` is called as they are finished.

    They are made beside ``out`` and renamed into place, so a folder that is there is complete. Raises UsageError if ``out`` is
    there already, DataError if it cannot be written.
    """
    if count < len(CLASSES):
        raise UsageError(f"--count must be at least {len(CLASSES)}, one image a class; got {count}")
    try:
        if out.exists():
            raise UsageError(f"{out} exists. Choose another --out, or remove it first.")
        partial = out.with_name(out.name + ".partial")
        if partial.exists():
            shutil.rmtree(partial)
        _draw(partial, count, seed, progress)
        partial.replace(out)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror} ({error.filename})") from error


def _draw(folder: Path, count: int, seed: int, progress: Callable[[int, int], None] | None) -> None:
    from concurrent.futures import ThreadPoolExecutor

    validation = int(count * VALIDATION_SHARE)
    for split in ("train", "validation"):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)

    def one(number: int) -> None:
        split = "validation" if number < validation else "train"
        name = CLASSES[number % len(CLASSES)]
        (folder / split / name / f"{name}-{number:07d}.jpg").write_bytes(picture(name, seed, number))

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for start in range(0, count, 256):
            end = min(start + 256, count)
            list(pool.map(one, range(start, end)))
            if progress is not None:
                progress(end, count)


def picture(name: str, seed: int, number: int) -> bytes:
    """One JPEG of class ``name``: the same for the same seed and number."""
    import cv2
    import simplejpeg

    rng = np.random.default_rng((seed, number))
    scale = rng.uniform(0.85, 1.2)
    height, width = (int(side * scale) for side in ((240, 320) if rng.random() < 0.7 else (320, 240)))
    image = _background(rng, height, width)
    for _ in range(int(rng.integers(1, 4))):
        radius = rng.uniform(0.16, 0.42) * min(height, width)
        centre = rng.uniform(0.25, 0.75) * width, rng.uniform(0.25, 0.75) * height
        _flower(image, name, centre, radius, rng)
    detail = _window(_noise()[int(rng.integers(4))], rng, height, width)
    grain = _window(_grain(), rng, height, width)
    lit = image.astype(np.float32) * (1 + 0.16 * detail[..., None]) + 3 * grain[..., None]
    lit *= rng.uniform(0.75, 1.15)
    pixels = np.clip(cv2.GaussianBlur(lit, (0, 0), 0.6), 0, 255).astype(np.uint8)
    return bytes(
        simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=QUALITY, colorspace="RGB", colorsubsampling="420")
    )


def _background(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Meadow or sky: two colours mixed by large, soft noise."""
    noise = _window(_noise()[int(rng.integers(4))], rng, height, width)
    low = np.array([(34, 70, 28), (52, 60, 40), (70, 100, 140), (90, 84, 60)][int(rng.integers(4))], np.float32)
    high = np.array([(110, 150, 70), (120, 130, 96), (170, 190, 214), (160, 150, 110)][int(rng.integers(4))], np.float32)
    mix = np.clip(0.5 + 0.5 * noise, 0, 1)[..., None]
    return np.asarray(low + (high - low) * mix, np.uint8)


def _flower(
    image: NDArray[np.uint8], name: str, centre: tuple[float, float], radius: float, rng: np.random.Generator
) -> None:
    import cv2

    petals, length, breadth, colour, middle, middle_colour = _FLOWERS[name]
    x, y = int(centre[0]), int(centre[1])
    cv2.line(
        image,
        (x, y),
        (x + int(rng.normal(0, radius / 3)), image.shape[0]),
        (46, 96, 40),
        max(2, int(radius / 10)),
        cv2.LINE_AA,
    )
    start = rng.uniform(0, 360)
    for petal in range(petals):
        angle = start + petal * 360 / petals + rng.normal(0, 3)
        reach = radius * length * rng.uniform(0.85, 1.05)
        turn = np.deg2rad(angle)
        at = int(x + np.cos(turn) * reach * 0.55), int(y + np.sin(turn) * reach * 0.55)
        axes = max(1, int(reach * 0.48)), max(1, int(radius * breadth))
        cv2.ellipse(image, at, axes, angle, 0, 360, _shade(colour, rng), -1, cv2.LINE_AA)
    if name == "roses":
        for ring in range(9, 0, -1):
            size = radius * ring / 9
            turn = rng.uniform(0, 2 * np.pi)
            at = int(x + np.cos(turn) * size * 0.12), int(y + np.sin(turn) * size * 0.12)
            shade = tuple(channel * (0.6 + 0.4 * (ring % 3) / 2) for channel in colour)
            cv2.ellipse(
                image, at, (int(size), int(size * 0.86)), rng.uniform(0, 360), 0, 360, _shade(shade, rng), -1, cv2.LINE_AA
            )
    if name == "tulips":
        for side in (-1, 1, 0):
            at = int(x + side * radius * 0.34), y
            axes = int(radius * 0.36), int(radius * 0.8)
            shade = tuple(channel * (1.0 if side else 0.8) for channel in colour)
            cv2.ellipse(image, at, axes, side * 14, 0, 360, _shade(shade, rng), -1, cv2.LINE_AA)
    if middle:
        cv2.circle(image, (x, y), int(radius * middle), _shade(middle_colour, rng), -1, cv2.LINE_AA)


def _shade(colour: tuple[float, ...], rng: np.random.Generator) -> tuple[float, ...]:
    light = rng.uniform(0.82, 1.08)
    return tuple(float(min(255, channel * light)) for channel in colour)


@cache
def _noise() -> NDArray[np.float32]:
    """Four textures of fractal noise (1/f, as natural images have it), float32 (4, 512, 512), standard deviation 1."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.fftfreq(512)[None, :])
    frequency[0, 0] = 1
    textures = np.real(np.fft.ifft2(np.fft.fft2(rng.standard_normal((4, 512, 512))) / frequency**1.3))
    return np.asarray(textures / textures.std((1, 2), keepdims=True), np.float32)


@cache
def _grain() -> NDArray[np.float32]:
    """White noise, as a sensor has it, float32 (512, 512)."""
    return np.random.default_rng(1).standard_normal((512, 512)).astype(np.float32)


def _window(texture: NDArray[np.float32], rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    top, left = (int(rng.integers(0, 512 - side)) for side in (height, width))
    return texture[top : top + height, left : left + width]


app: typer.Typer = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Example: python -m storage.demo --out flowers --count 2000")
def main(
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    count: Annotated[int, typer.Option(help="Images, train and validation together.")] = 1000,
    seed: Annotated[int, typer.Option(help="Another seed draws other images.", min=0)] = 0,
    _version: console.Version = False,
) -> None:
    """Draw demo images: five classes of flowers, train and validation, as JPEG files that load like photographs."""
    from rich.console import Console
    from rich.progress import Progress

    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
        task = bar.add_task("drawing", total=count)
        draw(out, count, seed, lambda done, _: bar.update(task, completed=done))
    typer.echo(console.shown(f"{count:,} images: {out}"))


if __name__ == "__main__":
    console.run_as_main(app, "storage.demo")

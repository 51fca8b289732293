"""Labelled images [28, 28, 3], drawn: letters in the DejaVu fonts of matplotlib, geometric shapes, and textures.

Digits are left out on purpose: they are what a prompt is to learn later. Letters whose two cases differ in size alone
(C and c) are one class, because sizes are drawn at random.
"""

import math
import random
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 28  # of an image; everything is drawn three times as large
LARGE = 3 * SIDE
SAME = "cosuvwxz"  # small letters that are their capitals
LETTERS = [*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *(x for x in "abcdefghijklmnopqrstuvwxyz" if x not in SAME)]
SHAPES = ["triangle", "square", "pentagon", "hexagon", "star", "disc", "ring", "half disc", "plus", "arrow"]
TEXTURES = ["stripes", "checks", "dots", "waves", "clouds", "slope"]
CLASSES = [*LETTERS, *SHAPES, *TEXTURES]
Mask = np.ndarray  # [28, 28] in [0, 1]: how much of the foreground is seen


def image(generator: random.Random) -> tuple[np.ndarray, int]:
    """One image [28, 28, 3] of bytes, and its class."""
    label = generator.randrange(len(CLASSES))
    name = CLASSES[label]
    mask = texture(name, generator) if name in TEXTURES else warped(figure(name, generator), generator)
    return coloured(mask, generator), label


def batch(size: int, generator: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """Images [B, 28, 28, 3] and their classes [B]."""
    images, labels = zip(*(image(generator) for _ in range(size)), strict=True)
    return np.stack(images), np.array(labels)


@cache
def fonts() -> list[str]:
    """The text fonts of the DejaVu family that come with matplotlib; matplotlib itself is not imported."""
    found = find_spec("matplotlib")
    if found is None or found.origin is None:
        raise SystemExit("no package 'matplotlib', whose fonts are drawn: pip install 'softprompt[data,lab]'")
    folder = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"
    names = sorted(str(path) for path in folder.glob("DejaVu*.ttf") if "Display" not in path.name)
    if not names:
        raise SystemExit(f"no DejaVu fonts in {folder}")
    return names


@cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(name, size)


def figure(name: str, generator: random.Random) -> Image.Image:
    """A letter or a shape, upright in the middle of a canvas."""
    canvas = Image.new("L", (LARGE, LARGE))
    draw = ImageDraw.Draw(canvas)
    middle = LARGE / 2
    if name in LETTERS:
        text = generator.choice([name, name.lower()]) if name.lower() in SAME else name
        chosen = font(generator.choice(fonts()), generator.randrange(44, 84, 4))
        draw.text((middle, middle), text, 255, chosen, anchor="mm", stroke_width=generator.choice([0, 0, 1, 2]))
        return canvas
    SHAPED[name](draw, middle, generator.uniform(18, 34))
    return canvas


def corners(draw: ImageDraw.ImageDraw, middle: float, radii: list[float]) -> None:
    """A polygon whose corners have these distances from the middle, the first one on top."""
    angles = [2 * math.pi * i / len(radii) - math.pi / 2 for i in range(len(radii))]
    points = [(middle + r * math.cos(a), middle + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]
    draw.polygon(points, fill=255)


def box(middle: float, radius: float) -> list[float]:
    return [middle - radius, middle - radius, middle + radius, middle + radius]


def plus(draw: ImageDraw.ImageDraw, middle: float, radius: float) -> None:
    thick = radius / 4
    draw.rectangle([middle - radius, middle - thick, middle + radius, middle + thick], fill=255)
    draw.rectangle([middle - thick, middle - radius, middle + thick, middle + radius], fill=255)


def arrow(draw: ImageDraw.ImageDraw, middle: float, radius: float) -> None:
    draw.line([middle - radius, middle, middle + radius / 2, middle], fill=255, width=int(radius / 4))
    near, half = middle + radius / 4, radius / 2
    head = [(near, middle - half), (middle + radius, middle), (near, middle + half)]
    draw.polygon(head, fill=255)


SHAPED: dict[str, Callable[[ImageDraw.ImageDraw, float, float], None]] = {
    "triangle": lambda draw, m, r: corners(draw, m, [r] * 3),
    "square": lambda draw, m, r: corners(draw, m, [r] * 4),
    "pentagon": lambda draw, m, r: corners(draw, m, [r] * 5),
    "hexagon": lambda draw, m, r: corners(draw, m, [r] * 6),
    "star": lambda draw, m, r: corners(draw, m, [r, r / 2.5] * 5),
    "disc": lambda draw, m, r: draw.ellipse(box(m, r), fill=255),
    "ring": lambda draw, m, r: draw.ellipse(box(m, r), outline=255, width=int(r / 4)),
    "half disc": lambda draw, m, r: draw.pieslice(box(m, r), 0, 180, fill=255),
    "plus": plus,
    "arrow": arrow,
}


def warped(canvas: Image.Image, generator: random.Random) -> Mask:
    """Turned, sheared, stretched and moved, then reduced to 28 by 28."""
    turn, shear = math.radians(generator.uniform(-25, 25)), generator.uniform(-0.35, 0.35)
    wide, high = generator.uniform(0.75, 1.3), generator.uniform(0.75, 1.3)  # 1.25 is a fifth smaller
    a, b = wide * math.cos(turn), wide * (math.sin(turn) + shear)
    d, e = -high * math.sin(turn), high * math.cos(turn)
    middle = LARGE / 2
    x, y = (middle + generator.uniform(-8, 8) for _ in range(2))
    matrix = (a, b, middle - a * x - b * y, d, e, middle - d * x - e * y)
    moved = canvas.transform(canvas.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(moved.reduce(3), dtype=np.float32) / 255


def texture(name: str, generator: random.Random) -> Mask:
    """A pattern that fills the image, in a random direction and size."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    angle, step = generator.uniform(0, math.pi), generator.uniform(0.5, 1.6)
    u = (math.cos(angle) * x + math.sin(angle) * y) * step + generator.uniform(0, 6)
    v = (math.cos(angle) * y - math.sin(angle) * x) * step + generator.uniform(0, 6)
    if name == "clouds":
        rough = np.random.default_rng(generator.getrandbits(32)).random((7, 7), dtype=np.float32)
        grown = Image.fromarray((rough * 255).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        return np.asarray(grown, dtype=np.float32) / 255
    made = {
        "stripes": np.sin(u) > 0,
        "checks": np.sin(u) * np.sin(v) > 0,
        "dots": np.sin(u) + np.sin(v) > 1,
        "waves": np.sin(u + 2 * np.sin(v / 2)) > 0,
        "slope": (u - u.min()) / (u.max() - u.min()),
    }[name]
    return made.astype(np.float32)


def coloured(mask: Mask, generator: random.Random) -> np.ndarray:
    """Bytes [28, 28, 3]: light on dark, with some noise; mostly grey."""
    dark, light = generator.uniform(0, 0.2), generator.uniform(0.7, 1)
    grey = generator.random() < 0.8
    shade = np.array([light if grey else light * generator.uniform(0.5, 1) for _ in range(3)], dtype=np.float32)
    pixels = dark + (shade - dark) * mask[..., None]
    noise = np.random.default_rng(generator.getrandbits(32)).standard_normal((SIDE, SIDE, 1), dtype=np.float32)
    return (np.clip(pixels + noise * generator.uniform(0, 0.05), 0, 1) * 255).astype(np.uint8)

"""Images become rows: the model's own processor resizes and normalises them."""

import hashlib
from copy import copy
from pathlib import Path
from typing import Any

from torch import Tensor

from softprompt.backbones import Backbone
from softprompt.core import TEXT, Example, Row
from softprompt.errors import DataError, RecipeError
from softprompt.example import Raster


class ImageTemplate:
    """What `Template` is for text. Prompt vectors always stand directly after CLS, so there is no text to write."""

    filler = 0
    fields: tuple[str, ...] = ()

    def __init__(self, text: str, backbone: Backbone, *, length: int) -> None:
        if text not in ("", "{soft}", f"{{soft:{length}}}"):
            raise RecipeError(
                "SP-E220", f"template {text!r} for images", "{soft} or nothing", "leave task.template out"
            )
        if backbone.tokenizer is None:
            raise RecipeError(
                "SP-E221", "no image processor", "how the model wants its pixels", "add preprocessor_config.json"
            )
        self.text, self.processor = text, backbone.tokenizer
        self.vectors = length if text else 0

    def without_soft(self) -> "ImageTemplate":
        """The same reader for the bare backbone."""
        bare = copy(self)
        bare.vectors = 0
        return bare

    @property
    def hash(self) -> str:
        """SHA-256 over everything that decides the pixels of a row."""
        settings: Any = self.processor.to_json_string()
        return hashlib.sha256(f"{self.text}\0{settings}".encode()).hexdigest()

    def encode(self, example: Example) -> Row:
        """One image as pixels [channels, height, width]; raises `DataError` for files that are no images."""
        try:
            from PIL import Image
        except ImportError as error:
            do = "pip install 'softprompt[data]'"
            raise DataError("SP-E110", "no package 'pillow'", "pillow, which reads images", do) from error
        if example.image is None:
            raise unreadable(example, "an example without an image")
        try:
            with opened(example.image) as image:
                if image.mode[:1] in ("I", "F"):  # `convert` would clip more than 8 bits a channel to white
                    raise unreadable(example, f"an image of mode {image.mode}, more than 8 bits a channel")
                pixels = self.processor(image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all of these are PIL's
            raise unreadable(example, f"{error}"[:160]) from error
        return self.row(pixels)

    def row(self, pixels: Tensor) -> Row:
        """The row of an image [channels, height, width]: places for CLS and the prompt, which stands after it."""
        return Row([self.filler] * (1 + self.vectors), [TEXT, *range(self.vectors)], pixels=pixels)


def opened(image: Path | Raster) -> Any:
    """An image of pillow, from a file of its own or out of a file of many."""
    from PIL import Image

    if isinstance(image, Raster):
        return Image.frombytes("L", (image.width, image.height), image.pixels)
    return Image.open(image)


def unreadable(example: Example, found: str) -> DataError:
    """An image that is missing or cannot be used as it is."""
    return DataError("SP-E129", found, "a readable image", "remove or replace the file", where=example.where)

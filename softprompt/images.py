"""Images become rows: the model's own processor resizes and normalises them."""

import hashlib
from copy import copy
from typing import Any

from softprompt.backbones import Backbone
from softprompt.core import Example, Row
from softprompt.errors import DataError, RecipeError


class ImageTemplate:
    """What `Template` is for text. Prompt vectors always stand directly after CLS, so there is no text to write."""

    filler = 0
    fields: tuple[str, ...] = ()

    def __init__(self, text: str, backbone: Backbone, *, length: int) -> None:
        if text not in ("", "{soft}", f"{{soft:{length}}}"):
            raise RecipeError(
                "SP-E220", f"template {text!r} for images", "{soft} or nothing", "leave task.template out"
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
        settings: Any = self.processor.to_json_string() if self.processor is not None else ""
        return hashlib.sha256(f"{self.text}\0{settings}".encode()).hexdigest()

    def encode(self, example: Example, answer: list[int] | None = None, *, close: bool = True) -> Row:
        """One image as pixels [channels, height, width]; raises `DataError` for files that are no images."""
        from PIL import Image, UnidentifiedImageError

        if example.image is None:
            raise DataError(
                "SP-E105",
                "an example without an image",
                "an image file",
                "give a folder of images",
                where=example.where,
            )
        try:
            with Image.open(example.image) as image:
                pixels = self.processor(image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise DataError(
                "SP-E105", f"{error}"[:160], "a readable image", "remove or replace the file", where=example.where
            ) from error
        return Row([0], [-1], pixels=pixels)

"""The corpus of a GraphRAG project, or a folder of texts, cut into chunks."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from softprompt.errors import DataError, RecipeError, near
from softprompt.files import read_regular
from softprompt.graphrag.forms import DEFAULT_TYPES
from softprompt.plain import read_yaml

LIMIT = 256 << 20  # bytes of one file
SETTINGS = ("settings.yaml", "settings.yml", "settings.json")
PATTERNS = {"text": r".*\.txt$", "csv": r".*\.csv$", "json": r".*\.json$", "jsonl": r".*\.jsonl$"}  # as GraphRAG's
PLAIN_FOLDER = r".*\.(txt|md|csv|jsonl)$"
OURS = ("prompts", "prompts-tuned")  # folders of prompts within a plain folder of texts
TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w{1,12}|[^\w\s]")


@dataclass(frozen=True)
class Chunk:
    """A piece of a document."""

    text: str
    source: str  # the document: a file, and a row of it
    number: int  # within the document

    @property
    def hash(self) -> str:
        """SHA-256 of its text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Settings:
    """What a project's settings say of its corpus; without settings, what is usual."""

    folder: Path
    pattern: str
    column: str = "text"
    encoding: str = "utf-8"
    size: int = 1200  # GraphRAG's defaults
    overlap: int = 100
    types: tuple[str, ...] = DEFAULT_TYPES
    prompt: Path | None = None  # the extraction prompt that is in use, there or not
    named: frozenset[Path] = frozenset()  # every prompt file that the settings name


def read_settings(root: Path) -> Settings:
    """The settings of a GraphRAG project (2.x or 3.x), or of a plain folder of texts.

    Raises `RecipeError` SP-E791 for settings that cannot be read, or name a corpus that is not made of text.
    """
    path = next((root / name for name in SETTINGS if (root / name).exists()), None)
    if path is None:
        return Settings(root, PLAIN_FOLDER)
    try:
        values = read_yaml(read_regular(path, LIMIT).decode("utf-8"))
        if not isinstance(values, dict):
            raise ValueError("no mapping")
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        found = f"settings that cannot be read ({' '.join(str(error).split())})"[:300]
        raise RecipeError("SP-E791", found, "GraphRAG's settings", "mend the file", where=str(path)) from error
    return settings_of(values, root, path)


def settings_of(values: dict[str, Any], root: Path, path: Path) -> Settings:
    """Settings from the values of the file, where 3.x and 2.x keep them."""
    read, cut = section(values, "input"), section(values, "chunking", "chunks")
    graph = section(values, "extract_graph", "entity_extraction")
    kind = str(read.get("type") or read.get("file_type") or "text")
    if kind == "file":  # 1.x says `type: file` and the kind elsewhere
        kind = str(read.get("file_type") or "text")
    if kind not in PATTERNS:
        do = "export the corpus as text, CSV or JSON, and give its folder instead"
        raise RecipeError("SP-E791", f"input of type {kind!r}", " or ".join(PATTERNS), do, where=str(path))
    storage = section(values, "input_storage") or section(read, "storage") or read
    if storage.get("type", "file") not in ("file", *PATTERNS):
        found = f"a corpus in {storage['type']!r} storage"
        raise RecipeError("SP-E791", found, "files", "give a folder of its texts instead", where=str(path))
    types = graph.get("entity_types")
    try:
        size, overlap = int(cut.get("size", 1200)), int(cut.get("overlap", 100))
    except (TypeError, ValueError, OverflowError) as error:
        found = f"a chunk size of {cut.get('size')!r}, an overlap of {cut.get('overlap')!r}"
        raise RecipeError("SP-E791", found, "whole numbers", "mend the file", where=str(path)) from error
    return Settings(
        folder=root / str(storage.get("base_dir") or "input"),
        pattern=str(read.get("file_pattern") or PATTERNS[kind]).replace("$$", "$"),  # 2.x escapes it as $$
        column=str(read.get("text_column") or "text"),
        encoding=str(read.get("encoding") or "utf-8"),
        size=size,
        overlap=overlap,
        types=tuple(map(str, types)) if isinstance(types, list) and types else DEFAULT_TYPES,
        prompt=root / str(graph["prompt"]) if graph.get("prompt") else None,
        named=frozenset((root / name).resolve() for name in prompts_of(values)),
    )


def prompts_of(values: dict[str, Any]) -> Iterator[str]:
    """Every file that a section of the settings names under a key such as `prompt` or `graph_prompt`."""
    for part in values.values():
        if isinstance(part, dict):
            yield from (name for key, name in part.items() if str(key).endswith("prompt") and isinstance(name, str))


def section(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """The first of these sections that is there, or an empty one."""
    return next((values[name] for name in names if isinstance(values.get(name), dict)), {})


def read_chunks(settings: Settings, leave: Path | None = None) -> list[Chunk]:
    """All chunks of a corpus, in the order of files and rows; `leave` is a folder that is no part of it.

    Raises `DataError` SP-E792 where there is no text, and SP-E793 for a file that cannot be read.
    """
    if settings.size < 1 or not 0 <= settings.overlap < settings.size:
        found = f"chunks of {settings.size} tokens with an overlap of {settings.overlap}"
        raise RecipeError("SP-E791", found, "an overlap below the size", "choose other sizes")
    chunks = []
    for source, text in documents(settings, leave):
        pieces = cut(text, settings.size, settings.overlap)
        chunks += [Chunk(piece, source, n) for n, piece in enumerate(pieces)]
    if not chunks:
        found = f"no text in files that match {settings.pattern!r}"
        do = "check the folder, or settings.yaml: input.file_pattern, input_storage.base_dir"
        raise DataError("SP-E792", found, "a corpus", do, where=str(settings.folder))
    return chunks


def documents(settings: Settings, leave: Path | None) -> Iterator[tuple[str, str]]:
    """Every document with a name."""
    try:
        pattern = re.compile(settings.pattern)
    except re.error as error:
        found = f"pattern {settings.pattern!r} ({error})"
        raise RecipeError("SP-E791", found, "a regular expression", "mend input.file_pattern") from error
    for path in sorted(settings.folder.rglob("*")) if settings.folder.is_dir() else ():
        name = path.relative_to(settings.folder).as_posix()
        hidden = any(part.startswith(".") for part in path.relative_to(settings.folder).parts)
        prompts = settings.pattern == PLAIN_FOLDER and name.split("/")[0] in OURS
        if hidden or prompts or not path.is_file() or not pattern.search(name):
            continue
        if leave is None or leave.resolve() not in path.resolve().parents:
            yield from read_file(path, name, settings)


def read_file(path: Path, name: str, settings: Settings) -> Iterator[tuple[str, str]]:
    """The documents of a file."""
    try:
        text = read_regular(path, LIMIT).decode(settings.encoding).removeprefix("\ufeff")
    except (ValueError, LookupError) as error:
        do = "save it as UTF-8, or name its encoding in input.encoding"
        raise DataError("SP-E793", f"no text ({error})"[:200], settings.encoding, do, where=str(path)) from error
    if path.suffix not in (".csv", ".json", ".jsonl"):
        yield name, text
        return
    for n, row in enumerate(rows(path, text), start=1):
        if not isinstance(row, dict) or settings.column not in row:
            columns = [str(one) for one in row] if isinstance(row, dict) else []
            found = f"no column {settings.column!r}{near(settings.column, columns)} in row {n}"
            do = f"name one of {', '.join(columns[:8])} in input.text_column, or with --column"
            raise DataError("SP-E793", found, "a column of texts", do, where=str(path))
        text = str(row[settings.column] or "")
        yield f"{name}:{n}", text.encode("utf-8", "replace").decode("utf-8")  # JSON may hold half a character


def rows(path: Path, text: str) -> Iterator[Any]:
    """The rows of a CSV, JSON or JSONL file."""
    try:
        if path.suffix == ".csv":
            csv.field_size_limit(LIMIT)
            yield from csv.DictReader(io.StringIO(text, newline=""))
        elif path.suffix == ".jsonl":
            yield from (json.loads(line) for line in text.split("\n") if line.strip())
        else:
            found = json.loads(text)
            yield from found if isinstance(found, list) else [found]
    except (csv.Error, RecursionError, ValueError) as error:
        found = f"a file that cannot be read ({error})"[:200]
        raise DataError("SP-E793", found, f"rows of {path.suffix}", "mend the file", where=str(path)) from error


def cut(text: str, size: int, overlap: int) -> list[str]:
    """Pieces of at most `size` tokens, each beginning `overlap` tokens before the end of the one before.

    Deviation: a token is a word of at most 12 letters, a mark, or one character of a script without spaces, where
    GraphRAG counts the tokens of a model. Chunks here are only what prompts are made and judged on.
    """
    spans = [match.span() for match in TOKEN.finditer(text)]
    pieces = []
    for first in range(0, len(spans), size - overlap):
        last = min(first + size, len(spans))
        pieces.append(text[spans[first][0] : spans[last - 1][1]])
        if last == len(spans):
            break
    return pieces


def excerpt(text: str, tokens: int) -> str:
    """The beginning of a text, up to the last end of a sentence within so many tokens."""
    spans = [match.span() for match in TOKEN.finditer(text)]
    if len(spans) <= tokens:
        return text.strip()
    start = text[: spans[tokens - 1][1]]
    ends = [match.end() for match in re.finditer(r"[.!?。！？](?=\s|$)|[。！？]", start)]
    return (start[: ends[-1]] if ends and ends[-1] > len(start) // 3 else start).strip()

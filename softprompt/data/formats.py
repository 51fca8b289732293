"""Which format a source has, and its rows by the reader of that format."""

from pathlib import Path
from typing import Final

from softprompt.data.columnar import HUB, read_hub, read_parquet
from softprompt.data.conll import read_conll
from softprompt.data.dataset import Columns, Table
from softprompt.data.delimited import read_csv, read_label_text, read_lines, read_tsv
from softprompt.data.idx import MARK, read_idx
from softprompt.data.images import PICTURES, read_images, read_picture
from softprompt.data.jsonlines import read_json, read_jsonl
from softprompt.data.source import STANDARD_INPUT, Text, display, load_text
from softprompt.errors import DataError, near

ENDINGS: Final = {
    ending: format
    for format, endings in (
        ("csv", (".csv",)),
        ("tsv", (".tsv", ".tab")),
        ("jsonl", (".jsonl", ".ndjson")),
        ("json", (".json",)),
        ("parquet", (".parquet", ".pq")),
        ("conll", (".conll", ".bio", ".iob", ".iob2")),
        ("text", (".txt",)),
    )
    for ending in endings
}
FORMATS: Final = ("csv", "tsv", "jsonl", "json", "parquet", "conll", "images", "idx", "hub", "label-text", "text")
ALIASES: Final = {"bio": "conll", "iob": "conll"}


def format_of(source: str | Path, *, labelled: bool) -> str:
    """The format that the name of a source tells; `stdin` for standard input of unknown format, `unknown` for none."""
    name = str(source)
    if name.startswith(HUB):
        return "hub"
    if name == STANDARD_INPUT:
        return "jsonl" if labelled else "stdin"
    path = Path(source)
    ending = path.suffix.lower()
    found = "idx" if MARK in path.name else ENDINGS.get(ending, "images" if ending in PICTURES and not labelled else "")
    try:
        found = "images" if path.is_dir() else found
    except (OSError, ValueError):
        found = found or "text"  # reading it will say what is wrong with the path
    if not found or (labelled and found == "text"):
        return "unknown"
    return found


def load(source: str | Path, format: str, encoding: str, columns: Columns | None, *, labelled: bool = True) -> Table:
    """The rows of a source as they stand there. Raises DataError for a source or a format that cannot be read."""
    format = ALIASES.get(format, format)
    if encoding != "utf-8" and format in ("hub", "images", "idx", "parquet"):
        do = "leave data.encoding out"
        raise DataError("SP-E115", f"encoding for {format} data", "none: it is not a text file", do)
    if format == "hub":
        return read_hub(str(source))
    if format == "idx":
        return read_idx(Path(source), labelled=labelled)
    if format == "images" and not labelled and not Path(source).is_dir():
        return read_picture(Path(source))
    if format == "images" and Path(source).is_dir():
        try:
            return read_images(Path(source), labelled=labelled)
        except OSError as error:
            found = (error.strerror or "an unreadable folder").lower()
            raise DataError("SP-E101", found, "images", "check the permissions", where=display(source)) from None
    if format == "parquet":
        return read_parquet(str(source))
    text = load_text(source, encoding)
    if format == "stdin":
        format = "jsonl" if text.text.lstrip().startswith("{") else "text"
    if format in ("csv", "tsv"):
        return (read_csv if format == "csv" else read_tsv)(text, columns)
    if format == "conll":
        return read_conll(text, tagged=labelled)
    simple = {"jsonl": read_jsonl, "json": read_json, "label-text": read_label_text}
    if not labelled:
        simple["text"] = read_lines
    if format in simple:
        return simple[format](text)
    raise no_format(text, format)


def no_format(text: Text, format: str) -> DataError:
    """A format that is unknown, or that the name of a file does not tell."""
    known = [name for name in FORMATS if name not in ("hub", "images", "text")]
    found = "a file whose format its name does not tell" if format == "unknown" else f"format '{format[:50]}'"
    do = f"say which, as in --set data.format=label-text (lines of a label and a text){near(format, known)}"
    return DataError("SP-E102", found, f"one of: {', '.join(known)}", do, where=text.name)

"""Parquet files and data sets of the Hugging Face hub; their libraries are imported only when used."""

import hashlib
from collections.abc import Callable
from typing import Any

from softprompt.data.dataset import COLUMN_LIMIT, Table
from softprompt.data.source import display, load_bytes
from softprompt.errors import DataError

HUB = "hub:"


def _missing(package: str, where: str) -> DataError:
    do = "pip install 'softprompt[data]'"
    return DataError("SP-E110", f"no package '{package}'", f"{package}, which reads this source", do, where=where)


def _refuse_wide(width: int, where: str) -> None:
    if width > COLUMN_LIMIT:
        expected, do = f"at most {COLUMN_LIMIT:,}", "keep the columns that are needed"
        raise DataError("SP-E109", f"{width:,} columns", expected, do, where=where)


def _refuse_empty(rows: int, where: str) -> None:
    if not rows:
        raise DataError("SP-E103", "no rows", "rows of data", "check how it was written", where=where)


def read_parquet(source: str) -> Table:
    """A Parquet file; the line of a row is its number, from 1. Raises DataError where it cannot be read."""
    name = display(source)
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise _missing("pyarrow", name) from None
    data = load_bytes(source)
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _refuse_wide(len(file.schema_arrow), name)
        content = file.read()
    except (pa.ArrowException, OSError) as error:
        do = "write it again, or name the right format with --set data.format=..."
        found = str(error).partition("\n")[0][:80]
        raise DataError("SP-E111", found, "a Parquet file", do, where=name) from None
    _refuse_empty(content.num_rows, name)
    table = Table(name, hashlib.sha256(data).hexdigest(), tuple(content.column_names))
    cells = [_cells(content.column(at), pa) for at in range(content.num_columns)]
    table.rows = list(zip(*cells, strict=True))
    table.lines = list(range(1, content.num_rows + 1))
    return table


def _cells(column: Any, pa: Any) -> list[Any]:
    """Python values of a column; text that is not UTF-8 keeps its bytes as lone surrogates, to be found later."""
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        raw = column.cast(pa.binary()).to_pylist()
        return [value if value is None else value.decode("utf-8", "surrogateescape") for value in raw]
    return values


def read_hub(source: str) -> Table:
    """`hub:name`, `hub:owner/name/config@split`; split is `train` unless named. Class numbers become class names.

    Two parts are tried as owner and name, then as name and configuration. Raises DataError.
    """
    try:
        import datasets
    except ImportError:
        raise _missing("datasets", source) from None
    path, _, split = source.removeprefix(HUB).partition("@")
    parts = path.split("/")
    tries: list[tuple[str, ...]] = [("/".join(parts[:2]), *parts[2:])]
    if len(parts) == 2:
        tries.append((parts[0], parts[1]))
    reason = ""
    for attempt in tries:
        try:
            return _hub_table(datasets.load_dataset(*attempt, split=split or "train"), source, datasets)
        except DataError:
            raise
        except Exception as error:  # datasets and the network raise dozens of kinds; all mean: not there
            reason = reason or " ".join(str(error).split())
    do = "check name, split and network; a local file always works"
    raise DataError("SP-E111", reason[:80] or "no data set", "a data set of the hub", do, where=source)


def _hub_table(loaded: Any, source: str, datasets: Any) -> Table:
    _refuse_wide(len(loaded.column_names), source)
    _refuse_empty(loaded.num_rows, source)
    digest = hashlib.sha256()
    cells = []
    for name in loaded.column_names:
        convert = _names(loaded.features[name], datasets)
        cells.append([convert(value) for value in loaded[name]])
        digest.update(repr((name, cells[-1])).encode("utf-8", "backslashreplace"))
    table = Table(source, digest.hexdigest(), tuple(loaded.column_names))
    table.rows = list(zip(*cells, strict=True))
    table.lines = list(range(1, loaded.num_rows + 1))
    return table


def _names(feature: Any, datasets: Any) -> Callable[[Any], Any]:
    """Class numbers to names; -1 is how the hub writes a label that was kept back."""
    if isinstance(feature, datasets.ClassLabel):
        return lambda value: None if value is None or value < 0 else feature.names[value]
    inner = getattr(feature, "feature", None)
    if isinstance(inner, datasets.ClassLabel):
        return lambda value: None if value is None else [inner.names[tag] for tag in value]
    return lambda value: value

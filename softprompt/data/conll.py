"""CoNLL files: a word and its tag a line, a blank line between sentences, the last column is the tag."""

from softprompt.data.dataset import Columns, Table
from softprompt.data.problem import Problem, quote
from softprompt.data.source import Text

NAMES = Columns(("tokens",), "tags")


def read_conll(text: Text, *, tagged: bool = True) -> Table:
    """Sentences of words and tags. With `tagged=False` a line may also be a word alone."""
    table = Table(text.name, text.sha256, ("tokens", "tags"), notes=list(text.notes))
    table.columns, table.kind, table.nameless, table.step = NAMES, "tagging", True, 1
    separator, width = _shape(text)
    tagged = tagged or width > 1
    words: list[str] = []
    tags: list[str] = []
    first, documents, fault = 0, 0, None
    for line, row in enumerate([*text.lines(), ""], start=1):
        if row.strip():
            first = first or line
            cells = row.rstrip("\r\n").split(separator)
            words.append(cells[0])
            tags.append(cells[-1])
            fault = fault or text.damage(line, line) or _fault(table.where(line), row, cells, width, tagged)
        elif words:
            if fault:
                table.reject(fault)
            elif words == ["-DOCSTART-"]:
                documents += 1
            else:
                table.add(first, (tuple(words), tuple(tags) if tagged else None))
            words, tags, first, fault = [], [], 0, None
    if documents:
        table.notes.append(f"{documents} -DOCSTART- lines were skipped")
    return table


def _shape(text: Text) -> tuple[str | None, int]:
    """The separator (None: any white space) and the number of columns, from the first line with words."""
    line = next(row for row in text.lines() if row.strip())
    separator = "\t" if "\t" in line.strip() else None
    return separator, len(line.rstrip("\r\n").split(separator))


def _fault(where: str, row: str, cells: list[str], width: int, tagged: bool) -> Problem | None:
    if tagged and len(cells) < 2:
        return Problem(where, "SP-E120", quote(row.strip()), "a word and its tag", "add the tag (O for none)")
    if len(cells) != width:
        found = f"{len(cells)} columns in {quote(row.strip())[:50]}"
        return Problem(where, "SP-E127", found, f"{width} columns as on the first line", "mend the line")
    if not cells[0].strip() or not cells[-1].strip():
        return Problem(where, "SP-E120", quote(row.rstrip()), "a word and its tag", "add what is missing")
    return None

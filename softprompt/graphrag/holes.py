"""Placeholders of prompts that a target fills by `str.format`: what text needs so that they survive, and what is left.

GraphRAG, LightRAG and nano-graphrag fill their prompts so, and a single brace in a model's text or in the corpus then
raises KeyError or ValueError while indexing. GraphRAG catches it, and leaves every chunk without a graph.
"""

from string import Formatter


def plain(text: str) -> str:
    """Text that `str.format` gives back as it is."""
    return text.replace("{", "{{").replace("}", "}}")


def hole(name: str) -> str:
    """A placeholder."""
    return "{" + name + "}"


def holes(text: str) -> list[str]:
    """The placeholders of a prompt, as often as they occur, with all that stands between their braces.

    Raises ValueError for braces that do not belong together.
    """
    found = []
    for _, name, form, conversion in Formatter().parse(text):
        if name is not None:
            found.append(name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else ""))
    return found


def broken_line(text: str) -> int:
    """The number of the first line whose braces do not belong together; 0 where there is none."""
    for n, line in enumerate(text.splitlines(), start=1):
        try:
            holes(line)
        except ValueError:
            return n
    return 0

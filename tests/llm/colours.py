"""The data of the server's planted task: things and their colours."""

from llm.fake import COLOURS

SIZES = {"train": 12, "dev": 18, "test": 16}


def write_colours(folder):
    """train.csv, dev.csv and test.csv in a folder."""
    things, at = list(COLOURS), 0
    for name, count in SIZES.items():
        rows = [f"the {things[i % 4]} number {i},{COLOURS[things[i % 4]]}\n" for i in range(at, at + count)]
        (folder / f"{name}.csv").write_text("text,label\n" + "".join(rows))
        at += count

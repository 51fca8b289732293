"""What a comparison leaves: report.html, numbers.json, CSV, LaTeX and PNG; seconds in files of their own."""

from pathlib import Path

from softprompt.files import write_atomically
from softprompt.lab.blocks import as_json
from softprompt.lab.compare import Compared
from softprompt.lab.figure import draw, drawable
from softprompt.lab.page import page
from softprompt.lab.tables import as_csv, as_latex, pairs, runs, trials
from softprompt.run import Listener


def write(found: Compared, command: str, listen: Listener = lambda event: None) -> Path:
    """Write every file of the report into the comparison's folder; the path of the page.

    `numbers.json`, `runs.csv`, `trials.csv`, `pairs.csv`, `table.tex` and `figure.png` are the same bytes in every
    repetition; `seconds.json`, `seconds.csv` and two sections of `report.html` are not.
    """
    made = {
        "numbers.json": as_json(found.numbers),
        "seconds.json": as_json({"seconds": found.seconds, "environment": found.environment, "command": command}),
        "runs.csv": as_csv(runs(found.numbers)).encode(),
        "trials.csv": as_csv(trials(found.numbers)).encode(),
        "pairs.csv": as_csv(pairs(found.numbers)).encode(),
        "seconds.csv": as_csv(found.seconds).encode(),
        "table.tex": as_latex(found.numbers).encode(),
        "report.html": page(found.numbers, found.seconds, found.environment, command).encode(),
    }
    if drawable():
        made["figure.png"] = draw(found.numbers)
    else:
        listen({"event": "note", "text": "no figure.png, which matplotlib draws: pip install 'softprompt[lab]'"})
    for name, data in made.items():
        write_atomically(found.folder / name, data)
    return found.folder / "report.html"

"""A report is one file that loads nothing, says what the numbers say, and is the same for the same numbers."""

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from lab.numbers_by_hand import numbers, seconds

from softprompt.lab import Compared, figure, write
from softprompt.lab.page import page, sentences
from softprompt.lab.plots import nice
from softprompt.lab.tables import as_csv, as_latex, escaped, runs

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Reader(HTMLParser):
    """Every tag with its attributes, the text, and whether all that was opened was closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return numbers()


@pytest.fixture(scope="module")
def whole(found: dict[str, Any]) -> str:
    return page(found, seconds(found), {"torch": "2"}, "softprompt compare 'a<b>'")


def test_the_page_is_sound_and_loads_nothing(whole: str) -> None:
    read = Reader(whole)
    assert read.open == []
    assert not {tag for tag, _ in read.tags} & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for _, attributes in read.tags:
        assert not attributes.keys() & {"src", "href", "srcset", "data", "xlink:href", "style"}
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import|https?:|//", whole)
    policy = [a["content"] for tag, a in read.tags if tag == "meta" and "http-equiv" in a]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_the_page_shows_every_number_and_every_hyper_parameter(found: dict[str, Any], whole: str) -> None:
    text = Reader(whole).text
    for question in found["questions"]:
        for method in question["methods"]:
            assert f"{method['test']['value']:.3f} ±{method['test']['error']:.3f}" in text
            assert f"{method['parameters']:,}" in text
            for section, values in method["recipe"].items():
                assert all(f"{section}.{key}" in text for key in values)
    for needed in ("zero-shot", "linear probe", "<not finite>", "softprompt compare 'a<b>'", "a<b>&_50%", "chosen"):
        assert needed in text


def test_every_plot_has_a_name_and_stays_inside_its_box(whole: str) -> None:
    boxes = re.findall(r'<svg viewBox="0 0 (\d+) (\d+)" role="img" aria-label="[^"]+">(.*?)</svg>', whole)
    assert len(boxes) == whole.count("<svg") == 2 + 4 * 4  # curves of two tasks; dots and three fronts a question
    for width, height, drawn in boxes:
        for name, limit in (("c?x[12]?", float(width)), ("c?y[12]?", float(height))):
            places = re.findall(rf' {name}="(-?[\d.]+)"', drawn.replace('class="turned" x=', ""))
            assert places
            assert all(0 <= float(place) <= limit for place in places)


def test_seconds_stand_in_sections_of_their_own(found: dict[str, Any]) -> None:
    slow = [cost | {"cpu_seconds_of_a_run": 99.0, "cpu_seconds_of_search": 77.0} for cost in seconds(found)]
    made = [page(found, clock, {"torch": str(i)}, f"{i}") for i, clock in enumerate((seconds(found), slow))]
    assert made[0] != made[1]
    apart = [re.sub(r'<section id="(time|environment)">.*?</section>', "", text, flags=re.DOTALL) for text in made]
    assert apart[0] == apart[1]


def test_words_name_only_differences_that_survive_the_correction(found: dict[str, Any]) -> None:
    told = sentences(found)
    assert len(told) == 4
    assert "prefix is ahead of prompt_tuning by 0.070" in told[0]
    single = sentences(numbers(seeds=1))
    assert all("no difference" in line for line in single)
    assert "Best baseline: linear probe, 0.690, not beaten by any method." in told[0]
    assert "Best baseline: linear probe, 0.690, below the best mean." in told[1]


def test_csv_is_in_full_precision(found: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(runs(found)))))
    assert len(rows) == 2 * 2 * 3 * 5
    values = [run["test"]["value"] for q in found["questions"] for m in q["methods"] for run in m["runs"]]
    assert [float(row["test"]) for row in rows] == values
    assert "seconds" not in "".join(rows[0])


def test_latex_has_a_row_a_method_the_best_bold_and_nothing_unescaped(found: dict[str, Any]) -> None:
    text = as_latex(found)
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(body) == 2 + 3
    assert all(line.count("&") - line.count(r"\&") == 4 for line in body)
    assert text.count(r"\mathbf") == 4
    assert r"prompt\_tuning" in text
    assert escaped("a_b&50%~\\") == r"a\_b\&50\%\textasciitilde{}\textbackslash{}"


def test_files_are_the_same_bytes_and_a_missing_matplotlib_is_said(
    found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softprompt.lab.report.drawable", lambda: False)
    told: list[str] = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made = Compared(tmp_path / name, found, seconds(found), {"torch": "2"})
        assert write(made, "again", lambda event: told.append(event["text"])) == tmp_path / name / "report.html"
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert set(files) == {"report.html", "numbers.json", "seconds.json", "table.tex"} | {
        f"{name}.csv" for name in ("runs", "trials", "pairs", "seconds")
    }
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    assert told == ["no figure.png, which matplotlib draws: pip install 'softprompt[lab]'"] * 2


def test_the_png_is_the_same_bytes(found: dict[str, Any]) -> None:
    first = figure.draw(found)
    assert first.startswith(b"\x89PNG")
    assert first == figure.draw(found)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (0.61, 0.63), (-3.0, 250.0), (0.5, 0.5), (0.0, 0.0), (1e-7, 2e-7)])
def test_ticks_are_round_and_hold_everything(ends: tuple[float, float]) -> None:
    ticks = nice(*ends)
    assert ticks[0] <= ends[0]
    assert ticks[-1] >= ends[1]
    assert 2 <= len(ticks) <= 9

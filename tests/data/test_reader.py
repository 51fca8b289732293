"""Sources of every format become the same examples."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from softprompt.data import Columns, check, read, read_inputs
from softprompt.errors import DataError

FORMATS = ["csv", "jsonl", "parquet", "hub"]
SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def pairs(data):
    return [(example.fields["text"], example.label) for example in data.examples]


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_same_examples(store, good, format):
    data = read(store(format, good))
    assert pairs(data) == good
    assert (data.kind, data.labels) == ("classification", ("bad", "good"))
    assert data.columns == Columns(("text",), "label")
    assert (data.problems, data.skipped) == ([], 0)


def test_lines_are_physical_lines_also_after_quoted_newlines(store, good):
    places = [example.where.rpartition(":")[2] for example in read(store("csv", good)).examples]
    assert places == ["2", "3", "4", "5", "7", "8"]


def test_the_hash_is_that_of_the_bytes(store, good):
    import hashlib

    source = store("csv", good)
    assert read(source).sha256 == hashlib.sha256(Path(source).read_bytes()).hexdigest()


def test_a_json_list_is_read_with_the_line_of_each_object(tmp_path, good):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"text": text, "label": label} for text, label in good], indent=1))
    data = read(path)
    assert pairs(data) == good
    assert [example.where.rpartition(":")[2] for example in data.examples] == ["2", "6", "10", "14", "18", "22"]


def test_a_tsv_without_a_header_is_recognised(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text('a fine film\t1\nit is dull\t0\nwarm and "funny"\t1\nI left early\t0\n')
    data = read(path)
    assert pairs(data)[2] == ('warm and "funny"', "1")
    assert len(data) == 4
    assert any("no header" in note for note in data.notes)
    again = read(path, columns=data.columns, kind=data.kind, labels=data.labels)
    assert again.examples == data.examples


def test_the_names_of_a_recipe_fit_a_file_without_header(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("a fine film\t1\nit is dull\t0\nwarm and funny\t1\nI left early\t0\n")
    data = read(path, columns=Columns(("sentence",), "gold"))
    assert data.columns == Columns(("sentence",), "gold")
    assert (data.examples[0].fields, data.examples[0].label) == ({"sentence": "a fine film"}, "1")


def test_reading_leaves_the_limit_of_the_csv_module_as_it_was(store, good):
    import csv

    before = csv.field_size_limit(54_321)
    try:
        read(store("csv", good))
        assert csv.field_size_limit() == 54_321
    finally:
        csv.field_size_limit(before)


def test_a_tsv_with_a_header_keeps_every_row(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("sentence\tlabel\na fine film\t1\nit is dull\t0\n")
    data = read(path)
    assert [example.fields["sentence"] for example in data.examples] == ["a fine film", "it is dull"]


def test_columns_of_a_file_without_header_are_named_by_position(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("x1\t1\t\tThe sailors rode the breeze\nx1\t0\t*\tThe weights made stretch rope\n" * 2)
    data = read(path, columns=Columns(("3",), "1"), on_bad_row="report")
    assert [example.label for example in data.examples] == ["1", "0", "1", "0"]
    assert data.examples[0].fields == {"3": "The sailors rode the breeze"}


def test_the_first_word_of_a_line_is_the_whole_label(tmp_path):
    path = tmp_path / "raw.txt"
    path.write_text("DESC:manner How did it end ?\nENTY:animal What fowl is it ?\n" * 2)
    data = read(path, format="label-text")
    assert data.labels == ("DESC:manner", "ENTY:animal")
    assert data.examples[0].fields == {"text": "How did it end ?"}


@pytest.mark.parametrize("separator", ["\t", " "])
def test_conll_sentences_are_words_and_tags(tmp_path, separator):
    path = tmp_path / "ner.conll"
    lines = ["-DOCSTART- O", "", "Anna B-PER", "sleeps O", "", "", "in O", "New B-LOC", "York I-LOC"]
    path.write_text("\n".join(lines).replace(" ", separator))
    data = read(path)
    assert [example.fields["tokens"] for example in data.examples] == [("Anna", "sleeps"), ("in", "New", "York")]
    assert data.examples[1].label == ("O", "B-LOC", "I-LOC")
    assert data.examples[1].where == f"{path}:7"
    assert (data.kind, data.labels) == ("tagging", ("B-LOC", "B-PER", "I-LOC", "O"))
    assert data.notes == ["1 -DOCSTART- lines were skipped"]


def test_word_and_tag_lists_in_json_are_tagging(tmp_path):
    path = tmp_path / "ner.jsonl"
    path.write_text('{"tokens": ["Anna", "sleeps"], "tags": ["B-PER", "O"]}\n{"tokens": ["no"], "tags": ["O"]}\n')
    data = read(path)
    assert (data.kind, data.labels) == ("tagging", ("B-PER", "O"))
    assert data.examples[0].fields == {"tokens": ("Anna", "sleeps")}


def test_class_numbers_of_the_hub_become_names(hub):
    import datasets

    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER"])),
        }
    )
    rows = {"tokens": [["Anna", "sleeps"], ["no"]], "ner_tags": [[1, 0], [0]]}
    hub[("conll", "en"), "validation"] = datasets.Dataset.from_dict(rows, features)
    data = read("hub:conll/en@validation")
    assert data.examples[0].label == ("B-PER", "O")
    labels = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    rows = {"text": ["a b c", "d e f", "g"], "label": [0, 1, -1]}
    hub[("owner/name", "config"), "train"] = datasets.Dataset.from_dict(rows, labels)
    data = read("hub:owner/name/config", on_bad_row="report")
    assert [example.label for example in data.examples] == ["neg", "pos"]
    assert [problem.code for problem in data.problems if problem.severity == "error"] == ["SP-E120"]


def test_folders_of_images_are_classes(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(2):
            (tmp_path / name / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + f"{name}{number}".encode())
    (tmp_path / "cat" / "notes.txt").write_text("mine")
    data = read(tmp_path)
    assert [(example.image.name, example.label) for example in data.examples] == [
        ("0.png", "cat"),
        ("1.png", "cat"),
        ("0.png", "dog"),
        ("1.png", "dog"),
    ]
    assert data.columns.image == "image"
    assert any("passed over" in note for note in data.notes)
    before = data.sha256
    (tmp_path / "cat" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nother")
    assert read(tmp_path).sha256 != before
    (tmp_path / "dog" / "1.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match="SP-E122"):
        read(tmp_path)
    (tmp_path / "alone.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert len(read_inputs(tmp_path / "cat")) == 2


def test_image_paths_in_a_table_are_relative_to_it_and_must_exist(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    path = tmp_path / "rows.csv"
    path.write_text("image,label\na.png,cat\nb.png,dog\n")
    data = read(path, columns=Columns((), "label", "image"), on_bad_row="report")
    assert [example.image for example in data.examples] == [tmp_path / "a.png"]
    assert "SP-E129" in {problem.code for problem in data.problems}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("one\n\ntwo\n", ["one", "two"]),
        ('{"text": "one"}\n{"text": "two"}\n', ["one", "two"]),
        ("\u2028 x\n", ["\u2028 x"]),
    ],
)
def test_standard_input_is_lines_or_json(monkeypatch, text, expected):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    data = read_inputs("-", Columns(("text",), "label"))
    assert [example.fields["text"] for example in data.examples] == expected
    assert all(example.label is None for example in data.examples)
    assert data.examples[0].where == "<stdin>:1"


def test_labelled_standard_input_is_jsonl(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"text": "x y z", "label": "a"}\n' * 2)))
    assert read("-", labels=["a", "b"]).labels == ("a", "b")


def test_plain_lines_take_the_name_that_the_prompt_was_trained_with(tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("one\ntwo\n")
    assert read_inputs(path, Columns(("sentence",), "gold")).examples[0].fields == {"sentence": "one"}
    with pytest.raises(DataError, match="SP-E112"):
        read_inputs(path, Columns(("premise", "hypothesis")))


def test_inputs_may_have_labels_some_or_none(store):
    data = read_inputs(store("jsonl", [("one", "a"), ("two", None)]), Columns(("text",), "label"))
    assert [example.label for example in data.examples] == ["a", None]
    assert [example.label for example in read_inputs(data.source, Columns(("text",))).examples] == [None, None]


def test_words_alone_are_enough_to_tag(tmp_path):
    path = tmp_path / "in.conll"
    path.write_text("Anna\nsleeps\n\nno\n")
    data = read_inputs(path)
    assert data.kind == "tagging"
    assert [example.fields["tokens"] for example in data.examples] == [("Anna", "sleeps"), ("no",)]
    with pytest.raises(DataError, match="SP-E120"):
        read(path)


def test_importing_the_readers_does_not_import_torch():
    code = "import sys, softprompt.data; print({'torch', 'transformers', 'pyarrow', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("format, package", [("parquet", "pyarrow"), ("hub", "datasets")])
def test_an_absent_package_is_named_with_the_command_that_installs_it(store, good, monkeypatch, format, package):
    source = store(format, good)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=r"SP-E110 .*pip install 'softprompt\[data\]'"):
        read(source)


def test_100_000_rows_are_read_without_losing_one(store):
    rows = [(f"this is review number {n}, and it is a long one", ("good", "bad")[n % 2]) for n in range(100_000)]
    assert pairs(read(store("csv", rows))) == rows


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(lambda text: text.strip())
ROWS = st.lists(st.tuples(TEXT, TEXT), min_size=1)
FREELY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ASKED = {"columns": Columns(("text",), "label"), "kind": "generation"}


@FREELY
@given(rows=ROWS)
@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_any_rows_read_back_as_they_were_written(store, format, rows):
    assert pairs(read(store(format, rows), **ASKED)) == rows


@FREELY
@given(rows=ROWS, number=st.integers(0), junk=st.binary(min_size=1, max_size=4))
@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "json", "conll", "label-text"])
def test_a_damaged_file_is_reported_and_never_a_crash(store, tmp_path, format, rows, number, junk):
    data = Path(store("jsonl" if "json" in format else "csv", rows)).read_bytes()
    if format == "json":
        data = b"[" + data.strip().replace(b"}\n", b"},\n") + b"]"
    at = number % len(data)
    path = tmp_path / "damaged"
    path.write_bytes(data[:at] + junk + data[at + 1 :])
    report = check(path, format=format)
    assert all(len(problem.found) <= 80 and "\n" not in problem.line() for problem in report.problems)
    json.dumps(report.as_dict()).encode()
    assert all(problem.line().encode() for problem in report.problems)


@FREELY
@given(data=st.binary(max_size=300))
@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "json", "parquet", "conll", "label-text"])
def test_any_bytes_are_read_or_refused_with_an_error_of_ours(tmp_path, format, data):
    path = tmp_path / "bytes"
    path.write_bytes(data)
    report = check(path, format=format)
    json.dumps(report.as_dict())
    assert all(problem.line().encode() for problem in report.problems)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data beside the repository is absent")
@pytest.mark.parametrize(
    "name, options, rows, kind, labels",
    [
        ("sst2/train.tsv", {}, 6920, "classification", 2),
        ("sst2/dev.tsv", {}, 872, "classification", 2),
        ("banking77/train.csv", {}, 10003, "classification", 77),
        ("wnut17_ner/train.conll", {}, 3394, "tagging", 13),
        ("wnut17_ner/test.conll", {}, 1287, "tagging", 13),
        ("gsm8k/test.jsonl", {}, 1319, "generation", 0),
        ("e2e_nlg/devset.csv", {}, 4672, "generation", 0),
        ("trec/raw_train.txt", {"format": "label-text", "encoding": "latin-1"}, 5452, "classification", 50),
        ("cola/in_domain_dev.tsv", {"columns": Columns(("3",), "1")}, 527, "classification", 2),
        ("mrpc/test.txt", {"format": "tsv"}, 1725, "classification", 2),
        ("sick/trial.txt", {"format": "tsv", "columns": Columns(label="relatedness_score")}, 500, "regression", 0),
    ],
)
def test_real_data_is_read_whole(name, options, rows, kind, labels):
    data = read(SHARED / name, **options)
    assert (len(data), data.kind, len(data.labels), data.skipped) == (rows, kind, labels, 0)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data beside the repository is absent")
def test_clinc150_written_as_lines_is_151_intents(tmp_path):
    content = json.loads((SHARED / "clinc150" / "data_full.json").read_text())
    path = tmp_path / "clinc.jsonl"
    rows = content["train"] + content["oos_train"]
    path.write_text("".join(json.dumps({"text": text, "intent": intent}) + "\n" for text, intent in rows))
    data = read(path)
    assert (len(data), len(data.labels), data.kind) == (15100, 151, "classification")

"""Every kind of bad input is named with its line, its code and what to do; good rows are never lost."""

import gzip
import json
import os
import random
from pathlib import Path

import pytest

from softprompt.data import BadRows, Columns, check, read
from softprompt.errors import DataError

LABELS = ["positive", "negative"]
ROWS = 10_000


def made(number):
    text = f'row {number} said "hi",\nand left' if number % 7 == 0 else f"row {number} is plain"
    return text, LABELS[number % 2]


def as_csv(text, label):
    quoted = '"' + text.replace('"', '""') + '"' if '"' in text or "," in text else text
    return f"{quoted},{label}\n".encode("utf-8", "surrogateescape")


def as_jsonl(text, label):
    return (json.dumps({"text": text, "label": label}) + "\n").encode()


# What a bad row looks like in a text file, by case and format; n is its number.
LINES = {
    "missing field": ("SP-E120", {"csv": b"row n only\n", "jsonl": b'{"label": "positive"}\n'}),
    "missing label": ("SP-E120", {"csv": b"row n,\n", "jsonl": b'{"text": "row n"}\n'}),
    "null": ("SP-E120", {"jsonl": b'{"text": null, "label": "positive"}\n'}),
    "extra field": ("SP-E121", {"csv": b"row n,positive,more\n"}),
    "wrong type": ("SP-E122", {"jsonl": b'{"text": 12, "label": "positive"}\n'}),
    "list as label": ("SP-E126", {"jsonl": b'{"text": "row n", "label": ["positive"]}\n'}),
    "not an object": ("SP-E122", {"jsonl": b'["row n", "positive"]\n'}),
    "empty text": ("SP-E123", {"csv": b",positive\n", "jsonl": b'{"text": "", "label": "positive"}\n'}),
    "white space": ("SP-E123", {"csv": b" \t ,positive\n", "jsonl": b'{"text": " \\n", "label": "positive"}\n'}),
    "label not in the set": (
        "SP-E124",
        {"csv": b"row n,postive\n", "jsonl": b'{"text": "row n", "label": "postive"}\n'},
    ),
    "label in other case": (
        "SP-E125",
        {"csv": b"row n,Positive\n", "jsonl": b'{"text": "row n", "label": "POSITIVE"}\n'},
    ),
    "label with a space": (
        "SP-E125",
        {"csv": b"row n, positive\n", "jsonl": b'{"text": "row n", "label": "positive "}\n'},
    ),
    "number among text labels": ("SP-E126", {"jsonl": b'{"text": "row n", "label": 1}\n'}),
    "not UTF-8": (
        "SP-E105",
        {"csv": b"row n caf\xe9,positive\n", "jsonl": b'{"text": "caf\xe9", "label": "positive"}\n'},
    ),
    "half a character": ("SP-E105", {"jsonl": b'{"text": "row \\ud83d", "label": "positive"}\n'}),
    "NUL": ("SP-E106", {"csv": b"row\0n,positive\n", "jsonl": b'{"text": "row\\u0000n", "label": "positive"}\n'}),
    "unbalanced quote": ("SP-E107", {"csv": b'"row n,positive\n'}),
    "text after a quote": ("SP-E107", {"csv": b'"row" n,positive\n'}),
    "broken JSON": ("SP-E108", {"jsonl": b'{"text": "row n" "label": "positive"}\n'}),
    "key twice": ("SP-E108", {"jsonl": b'{"text": "row n", "text": "other", "label": "positive"}\n'}),
}
TEXT_CASES = [(case, format) for case, (_, forms) in LINES.items() for format in forms]


@pytest.mark.parametrize("bad", [1, 1000])
@pytest.mark.parametrize("case, format", TEXT_CASES)
def test_all_bad_lines_are_named_and_no_good_row_is_lost(tmp_path, case, format, bad):
    code, forms = LINES[case]
    chosen = set(random.Random(bad).sample(range(ROWS), bad))
    write = as_csv if format == "csv" else as_jsonl
    chunks, expected, line = ([b"text,label\n"], set(), 2) if format == "csv" else ([], set(), 1)
    for number in range(ROWS):
        chunk = forms[format].replace(b"row n", b"row %d" % number) if number in chosen else write(*made(number))
        expected |= {line} if number in chosen else set()
        line += chunk.count(b"\n")
        chunks.append(chunk)
    path = tmp_path / f"rows.{format}"
    path.write_bytes(b"".join(chunks))
    options = {"columns": Columns(("text",), "label"), "labels": LABELS}

    with pytest.raises(BadRows) as caught:
        read(path, **options)
    problems = caught.value.problems
    assert {problem.code for problem in problems} == {code}
    assert {int(problem.where.removeprefix(f"{path}:").split(":")[0]) for problem in problems} == expected
    assert all(len(problem.found) <= 80 for problem in problems)
    assert str(caught.value).startswith(problems[0].line())
    assert ("and 999 more" in str(caught.value)) == (len(problems) == 1000)

    kept = read(path, on_bad_row="skip", **options)
    good = [made(number) for number in range(ROWS) if number not in chosen]
    assert [(example.fields["text"], example.label) for example in kept.examples] == good
    assert kept.skipped == bad
    assert any("left out" in note for note in kept.notes)


VALUES = {
    "null text": ("SP-E120", (None, "positive")),
    "null label": ("SP-E120", ("row", None)),
    "empty text": ("SP-E123", ("", "positive")),
    "white space": ("SP-E123", (" \n", "positive")),
    "label not in the set": ("SP-E124", ("row", "postive")),
    "label in other case": ("SP-E125", ("row", "Positive")),
    "NUL": ("SP-E106", ("row\0", "positive")),
}


@pytest.mark.parametrize("bad", [1, 1000])
@pytest.mark.parametrize("format", ["parquet", "hub"])
@pytest.mark.parametrize("case", VALUES)
def test_all_bad_rows_of_typed_tables_are_named(store, case, format, bad):
    code, row = VALUES[case]
    chosen = set(random.Random(bad).sample(range(ROWS), bad))
    source = store(format, [row if number in chosen else made(number) for number in range(ROWS)])
    data = read(source, labels=LABELS, on_bad_row="report")
    errors = [problem for problem in data.problems if problem.severity == "error"]
    assert {problem.code for problem in errors} == {code}
    assert {int(problem.where.removeprefix(f"{source}:").split(":")[0]) - 1 for problem in errors} == chosen
    good = [made(number) for number in range(ROWS) if number not in chosen]
    assert [(example.fields["text"], example.label) for example in data.examples] == good


FOUR = b"text,label\none film,good\ntwo films,bad\nthree films,good\nfour films,bad\n"


def codes(path, **options):
    return [(problem.code, problem.where.removeprefix(str(path))) for problem in check(path, **options).problems]


@pytest.fixture
def file(tmp_path):
    def write(data: bytes, name="rows.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_marks_do_not_change_the_data(file, end, mark):
    data = read(file(mark + FOUR.replace(b"\n", end)))
    assert [example.fields["text"] for example in data.examples][::3] == ["one film", "four films"]
    assert [example.where.rpartition(":")[2] for example in data.examples] == ["2", "3", "4", "5"]
    assert any("byte order mark" in note for note in data.notes) == bool(mark)


def test_a_quote_that_never_closes_is_named_where_it_opened(file):
    path = file(b'text,label\n"fine\nfilm",good\nx,bad\n"a\nb","bad\nc,good\nd,bad\n')
    assert ("SP-E107", ":6") in codes(path)


def test_a_lone_carriage_return_is_named(file):
    assert ("SP-E107", ":3") in codes(file(FOUR.replace(b"two films", b"two\rfilms")))


def test_the_offset_of_an_undecodable_byte_is_told_with_a_likely_encoding(file):
    path = file(FOUR.replace(b"two", "café".encode("cp1252")))
    (problem,) = [problem for problem in check(path).problems if problem.code == "SP-E105"]
    assert problem.found == "byte 0xe9 at byte offset 28"
    assert "cp1252" in problem.do
    assert read(path, encoding="cp1252").examples[1].fields["text"] == "café films"


def test_the_offset_counts_the_byte_order_mark(file):
    (problem,) = check(file(b"\xef\xbb\xbf" + FOUR.replace(b"two", b"caf\xe9"))).problems[:1]
    assert problem.found == "byte 0xe9 at byte offset 31"


@pytest.mark.parametrize("encoding", ["no-such", "utf-16"])
def test_an_encoding_that_cannot_be_is_refused(file, encoding):
    with pytest.raises(DataError, match="SP-E105"):
        read(file(b"an odd number of bytes."), encoding=encoding)


def test_utf_16_is_recognised(file):
    path = file(FOUR.decode().encode("utf-16"))
    with pytest.raises(DataError, match=r"SP-E105 .*utf-16"):
        read(path)
    assert len(read(path, encoding="utf-16")) == 4


@pytest.mark.parametrize("null", ["NA", "null", "NaN", "None", "n/a"])
@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet", "hub"])
def test_null_words_stay_text_with_a_warning(store, good, format, null):
    data = read(store(format, [*good, (null, "good")]))
    assert data.examples[-1].fields["text"] == null
    assert [(problem.code, problem.severity) for problem in data.problems] == [("SP-W101", "warning")]


def test_a_null_word_as_class_is_pointed_out(store, good):
    data = read(store("csv", [*good, ("one more", "nan"), ("another", "nan")]))
    assert data.labels == ("bad", "good", "nan")
    assert [problem.code for problem in data.problems] == ["SP-W101"]


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet", "hub"])
def test_duplicates_are_warned_of_and_kept(store, good, format):
    data = read(store(format, [*good, good[0], ("I left early", "good")]))
    assert len(data) == 8
    assert [(problem.code, problem.severity) for problem in data.problems] == [
        ("SP-W102", "warning"),
        ("SP-W103", "warning"),
    ]
    assert data.problems[0].found == f"the same row as line {data.examples[0].where.rpartition(':')[2]}"


def test_several_answers_to_one_input_are_no_contradiction(store):
    rows = [("a", "one long answer"), ("a", "another long answer"), ("b", "a third long answer")]
    assert read(store("jsonl", rows), kind="generation").problems == []


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet", "hub"])
@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_one_class_only_is_an_error_that_skipping_does_not_mend(store, format, policy):
    with pytest.raises(BadRows, match="SP-E130"):
        read(store(format, [("one film", "good"), ("two films", "good")]), on_bad_row=policy)


def test_a_class_of_one_row_is_warned_of_with_a_near_miss(store, good):
    data = read(store("csv", [*good, ("one more", "goood")]))
    (problem,) = data.problems
    assert (problem.code, problem.severity) == ("SP-W104", "warning")
    assert "did you mean 'good'" in problem.do


def test_the_commonest_spelling_of_a_label_is_the_right_one(store, good):
    data = read(store("csv", [*good, ("one more", "Good")]), on_bad_row="skip")
    assert (data.labels, data.skipped, len(data)) == (("bad", "good"), 1, 6)
    both = read(store("csv", [*good, ("one more", "Good")]), labels=["bad", "good", "Good"])
    assert (both.skipped, both.examples[-1].label) == (0, "Good")


def test_a_label_with_space_around_is_kept_and_pointed_out(file):
    path = file(FOUR.replace(b",good", b", good"))
    assert codes(path) == [("SP-W106", "")]
    assert read(path).labels == (" good", "bad")


def test_a_near_miss_is_suggested(store, good):
    with pytest.raises(BadRows, match=r"SP-E124 .*:9:label: found label 'goood'.*did you mean 'good'"):
        read(store("csv", [*good, ("one more", "goood")]), labels=["good", "bad"])


def test_blank_lines_are_skipped_and_counted(file):
    for name, data in (("rows.csv", FOUR), ("rows.jsonl", as_jsonl("a", "x") + as_jsonl("b", "y") * 3)):
        got = read(file(data.replace(b"\n", b"\n\n", 3), name), on_bad_row="report")
        assert "3 blank lines were skipped" in got.notes
        assert len(got) == 4


def test_a_last_line_that_is_cut_off_is_named(file):
    whole = as_jsonl("one film", "good") + as_jsonl("two films", "bad")
    path = file(whole + b'{"text": "three fil', "rows.jsonl")
    (problem,) = [problem for problem in check(path).problems if problem.severity == "error"]
    assert (problem.code, problem.where) == ("SP-E108", f"{path}:3")
    assert "cut off" in problem.found
    assert len(read(path, on_bad_row="skip")) == 2


def test_only_the_last_line_is_called_cut_off(file):
    whole = as_jsonl("one film", "good") + as_jsonl("two films", "bad")
    (problem,) = check(file(b'{"text": "x\n' + whole, "rows.jsonl")).problems[:1]
    assert problem.code == "SP-E108"
    assert "cut off" not in problem.found


def test_a_list_that_is_cut_off_is_named(file):
    path = file(b'[{"text": "one film", "label": "good"},\n{"text": "two films", "label": "bad"},\n', "rows.json")
    assert ("SP-E108", ":3") in codes(path)
    path = file(b'[{"text": "one film", "label": "good"}\n{"text": "two films", "label": "bad"}]', "rows.json")
    assert ("SP-E108", ":2") in codes(path)


@pytest.mark.parametrize("body", ["[" * 100_000, '{"text": "x y z", "label": ' + "9" * 5000 + "}", '{"text": NaN}'])
def test_hostile_json_is_an_error_and_no_crash(file, body):
    path = file(as_jsonl("one film", "good") + body.encode() + b"\n" + as_jsonl("two films", "bad"), "rows.jsonl")
    assert {where.partition(":")[2][:1] for code, where in codes(path) if code.startswith("SP-E")} == {"2"}


def test_a_rare_key_is_warned_of(file):
    rows = [{"text": f"row {n}", "label": "ab"[n % 2]} for n in range(6)]
    rows[3]["lable"] = "a"
    path = file("".join(json.dumps(row) + "\n" for row in rows).encode(), "rows.jsonl")
    assert codes(path) == [("SP-W105", ":4")]


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet", "hub"])
def test_a_cell_of_ten_megabytes_is_refused_and_the_rest_kept(store, good, format):
    source = store(format, [*good, ("x" * 10_000_000, "good"), ("last one", "bad")])
    data = read(source, on_bad_row="skip")
    assert [problem.code for problem in data.problems] == ["SP-E109"]
    assert [example.fields["text"] for example in data.examples] == [text for text, _ in good] + ["last one"]


def test_a_million_columns_are_refused(file):
    names = [f"c{n}" for n in range(1_000_000)]
    assert codes(file(",".join(names).encode() + b"\n" + FOUR)) == [("SP-E109", ":1")]
    assert ("SP-E121", ":6") in codes(file(FOUR + ",".join(names).encode() + b"\n"))
    wide = json.dumps(dict.fromkeys(names[:100_000], 1)).encode() + b"\n"
    path = file(as_jsonl("one film", "good") + wide + as_jsonl("two films", "bad"), "rows.jsonl")
    assert ("SP-E109", ":2") in codes(path)
    narrow = b"".join(json.dumps({name: "x"}).encode() + b"\n" for name in names[:1500])
    assert codes(file(narrow, "rows.jsonl")) == [("SP-E109", "")]


@pytest.mark.parametrize("data", [b"", b"\n\n \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "json", "conll", "label-text"])
def test_an_empty_file_is_refused(file, format, data):
    assert codes(file(data, "rows"), format=format) == [("SP-E103", "")]


@pytest.mark.parametrize("name, data", [("rows.csv", b"text,label\n"), ("rows.json", b"[]"), ("rows.jsonl", b"{}\n")])
def test_a_file_without_rows_is_refused(file, name, data):
    with pytest.raises(DataError, match=r"SP-E1(03|13)"):
        read(file(data, name))


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.conll", "rows.csv.gz"])
def test_compressed_data_is_recognised_whatever_its_name(file, name):
    assert codes(file(gzip.compress(FOUR), name)) == [("SP-E116", "")]


def test_parquet_data_under_another_name_and_the_reverse(store, good, file):
    parquet = Path(store("parquet", good)).read_bytes()
    with pytest.raises(DataError, match=r"SP-E116 .*data.format=parquet"):
        read(file(parquet))
    with pytest.raises(DataError, match="SP-E111"):
        read(file(FOUR, "rows.parquet"))
    with pytest.raises(DataError, match="SP-E111"):
        read(file(parquet[: len(parquet) // 2], "rows.parquet"))


def test_text_in_parquet_that_is_not_utf8_is_named(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    text = pa.array([b"one film", b"caf\xe9", b"two films"]).view(pa.string())
    pq.write_table(pa.table({"text": text, "label": ["good", "bad", "bad"]}), tmp_path / "rows.parquet")
    assert ("SP-E105", ":2:text") in codes(tmp_path / "rows.parquet")


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    for name in ("pipe.csv", "absent.csv", "absent", "a" * 5000, "nul\0.csv"):
        with pytest.raises(DataError, match="SP-E101"):
            read(tmp_path / name)
    with pytest.raises(DataError, match="SP-E101"):
        read(tmp_path / "folder.csv", format="csv")
    with pytest.raises(DataError, match="SP-E103"):
        read(tmp_path / "folder.csv")


def test_a_data_set_the_hub_does_not_have_is_an_error(hub):
    with pytest.raises(DataError, match=r"SP-E111 hub:no/such"):
        read("hub:no/such@test")


def test_unknown_formats_and_options_are_refused(file):
    for path, options in ((file(FOUR, "rows.dat"), {}), (file(FOUR), {"format": "cvs"}), (file(FOUR, "rows.txt"), {})):
        with pytest.raises(DataError, match="SP-E102"):
            read(path, **options)
    for options in ({"kind": "clasification"}, {"on_bad_row": "ignore"}, {"kind": "regression", "labels": ["a"]}):
        with pytest.raises(DataError, match="SP-E115"):
            read(file(FOUR), **options)
    with pytest.raises(DataError, match="SP-E115"):
        check(file(FOUR), kind="clasification")
    with pytest.raises(DataError, match="SP-E115"):
        read("hub:made/up", encoding="latin-1")


def test_a_column_name_twice_or_not_there_is_refused(file):
    assert codes(file(b"text,text,label\na,b,c\n")) == [("SP-E114", ":1")]
    with pytest.raises(DataError, match=r"SP-E112 .*did you mean 'label'"):
        read(file(FOUR), columns=Columns(("text",), "lable"))


@pytest.mark.parametrize("key", ['"\\ud83d"', '"\\u0000"'])
def test_a_key_that_cannot_be_printed_is_refused(file, key):
    path = file(b'{%s: "x", "label": "a"}\n' % key.encode(), "rows.jsonl")
    assert codes(path) == [("SP-E105", "")]


def test_a_file_name_that_is_not_utf8_can_be_named(tmp_path):
    with pytest.raises(DataError) as caught:
        read(tmp_path / os.fsdecode(b"caf\xe9.csv"))
    assert str(caught.value).encode()


def test_thousands_of_lonely_classes_are_reported_in_seconds(file):
    rows = b"".join(b"row number %d,c%d\nanother row %d,d%d\nthird row %d,d%d\n" % ((n,) * 6) for n in range(3000))
    path = file(b"text,label\n" + rows)
    found = codes(path, kind="classification")
    assert len(found) == 3000
    assert {code for code, _ in found} == {"SP-W104"}
    wrong = codes(path, labels=[f"e{n}" for n in range(3000)])
    assert sum(code == "SP-E124" for code, _ in wrong) == 9000


def test_problems_are_told_in_the_order_of_the_file(file):
    path = file(FOUR + b",good\nfive films\nsix films,goood\n,bad\n")
    lines = [where.split(":")[1] for _, where in codes(path, labels=["good", "bad"])]
    assert lines == ["6", "7", "8", "9"]


def test_a_damaged_header_is_refused_even_when_skipping(file):
    with pytest.raises(BadRows, match=r"SP-E105 .*:1:"):
        read(file(b"t\xe9xt,label\n" + FOUR), on_bad_row="skip")


def test_numbers_that_are_none_are_named(file):
    body = b"".join(b"row number %d,%d.5\n" % (n, n) for n in range(30))
    path = file(b"text,score\n" + body + b"one,nan\ntwo,high\nthree,1_000\n")
    with pytest.raises(BadRows) as caught:
        read(path, kind="regression")
    assert [(problem.code, problem.where) for problem in caught.value.problems] == [
        ("SP-E128", f"{path}:{line}:score") for line in (32, 33, 34)
    ]


def test_bad_lines_of_conll_are_named_and_only_their_sentences_left_out(file):
    data = b"Anna\tB-PER\nsleeps\tO\n\nBen\n\nhere\tO\tO\n\nCa\xe9\tO\n\nno\tb-per\nfine\tO\n\nAnna\tB-PER\n"
    path = file(data, "ner.conll")
    errors = [pair for pair in codes(path) if pair[0].startswith("SP-E")]
    assert errors == [("SP-E120", ":4"), ("SP-E127", ":6"), ("SP-E105", ":8"), ("SP-E125", ":10:tags")]
    kept = read(path, on_bad_row="skip")
    assert [example.fields["tokens"] for example in kept.examples] == [("Anna", "sleeps"), ("Anna",)]
    assert kept.skipped == 4


def test_words_and_tags_of_different_number_are_named(file):
    rows = [{"tokens": ["a", "b"], "tags": ["O"]}, {"tokens": [], "tags": []}, {"tokens": ["a", 1], "tags": ["O", "O"]}]
    rows += [{"tokens": "a b", "tags": ["O", "O"]}, {"tokens": ["a"], "tags": ["O"]}, {"tokens": ["a"], "tags": "O"}]
    path = file("".join(json.dumps(row) + "\n" for row in rows).encode(), "ner.jsonl")
    found = [pair for pair in codes(path, kind="tagging") if pair[0].startswith("SP-E")]
    assert found == [
        ("SP-E127", ":1:tags"),
        ("SP-E123", ":2:tokens"),
        ("SP-E122", ":3:tokens"),
        ("SP-E122", ":4:tokens"),
        ("SP-E122", ":6:tags"),
    ]


def test_when_every_row_is_bad_nothing_is_returned(file):
    with pytest.raises(BadRows, match="SP-E123"):
        read(file(b"text,label\n,good\n,bad\n"), on_bad_row="skip")


def test_the_report_holds_everything_and_is_json(file):
    report = check(file(FOUR + b",good\n"))
    facts = json.loads(json.dumps(report.as_dict()))
    assert not report.ok
    assert (facts["rows"], facts["bad_rows"], facts["counts"]) == (4, 1, {"bad": 2, "good": 2})
    assert facts["columns"] == {"text": ["text"], "label": "label", "image": None}
    assert [problem["code"] for problem in facts["problems"]] == ["SP-E123"]
    assert check(file(FOUR)).ok


def test_examples_that_leak_from_training_are_reported(file):
    train = read(file(FOUR))
    report = check(file(b"text,label\nfive films,good\nTwo  films,bad\n", "test.csv"), train=train)
    assert [(problem.code, problem.where[-10:]) for problem in report.problems if problem.severity == "error"] == [
        ("SP-E131", "test.csv:3")
    ]

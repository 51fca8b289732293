"""Chunks are read where the settings say, and chosen so that they differ, are never shown twice, and never crash."""

import json
from pathlib import Path
from random import Random

import pytest
from graphrag.scripted import TOPICS, corpus, story

from softprompt.errors import SoftpromptError
from softprompt.graphrag.corpus import Chunk, Settings, cut, excerpt, read_chunks, read_settings
from softprompt.graphrag.select import choose, different, divide, tfidf

SETTINGS_3 = """\
completion_models:
  default_completion_model: {model: x, api_key: "${GRAPHRAG_API_KEY}"}
input: {type: csv, text_column: body}
input_storage: {type: file, base_dir: texts}
chunking: {type: tokens, size: 30, overlap: 5}
extract_graph: {prompt: prompts/extract_graph.txt, entity_types: [ship, port]}
"""
SETTINGS_2 = """\
input:
  storage: {type: file, base_dir: "input"}
  file_type: text
  file_pattern: ".*\\\\.log$$"
chunks: {size: 50, overlap: 10}
"""


def chunk(text: str, n: int = 0) -> Chunk:
    return Chunk(text, f"d{n}", 0)


def test_settings_of_graphrag_3_decide_where_and_how(tmp_path: Path) -> None:
    """GraphRAG's own tuner cuts at 1200 whatever the settings say, unless told again."""
    (tmp_path / "settings.yaml").write_text(SETTINGS_3)
    (tmp_path / "texts").mkdir()
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "extract_graph.txt").write_text("mine")
    long = " ".join(f"word{n}" for n in range(70))
    (tmp_path / "texts" / "a.csv").write_text(f'id,body\n1,"one, two"\n2,{long}\n', encoding="utf-8")
    settings = read_settings(tmp_path)
    assert (settings.size, settings.overlap, settings.types) == (30, 5, ("ship", "port"))
    assert settings.prompt == tmp_path / "prompts" / "extract_graph.txt"
    chunks = read_chunks(settings)
    assert [(one.source, one.number) for one in chunks] == [
        ("a.csv:1", 0),
        ("a.csv:2", 0),
        ("a.csv:2", 1),
        ("a.csv:2", 2),
    ]
    assert chunks[2].text.split()[0] == "word25"


def test_settings_of_graphrag_2_are_understood(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text(SETTINGS_2)
    (tmp_path / "input" / "deep").mkdir(parents=True)
    (tmp_path / "input" / "deep" / "a.log").write_text("A log.")
    (tmp_path / "input" / "b.txt").write_text("No log.")
    settings = read_settings(tmp_path)
    assert (settings.size, settings.overlap) == (50, 10)
    assert [one.source for one in read_chunks(settings)] == ["deep/a.log"]


def test_a_plain_folder_is_read_without_prompts_hidden_files_and_what_is_written_there(tmp_path: Path) -> None:
    corpus(tmp_path, 2)
    (tmp_path / "note.md").write_text("# A title\n\nA note.")
    (tmp_path / "rows.jsonl").write_text('{"text": "first\u2028line"}\n{"text": "second \\ud83d"}\n', encoding="utf-8")
    for folder in ("prompts", "prompts-tuned", "out", ".git"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text("a prompt")
    found = [one.source for one in read_chunks(read_settings(tmp_path), tmp_path / "out")]
    assert found == ["00.txt", "01.txt", "note.md", "rows.jsonl:1", "rows.jsonl:2"]


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({}, "SP-E792"),
        ({"a.txt": " \n"}, "SP-E792"),
        ({"a.csv": "body,n\nx,1\n"}, "SP-E793"),
        ({"a.jsonl": "{"}, "SP-E793"),
        ({"a.jsonl": "3"}, "SP-E793"),
        ({"a.txt": b"\xff\xfe\x00"}, "SP-E793"),
        ({"settings.yaml": "input: {type: parquet}"}, "SP-E791"),
        ({"settings.yaml": "input_storage: {type: blob}"}, "SP-E791"),
        ({"settings.yaml": "input: [}"}, "SP-E791"),
        ({"settings.yaml": "- a"}, "SP-E791"),
        ({"settings.yaml": "chunks: {size: many}"}, "SP-E791"),
        ({"settings.yaml": "chunks: {size: .inf}"}, "SP-E791"),
        ({"a.jsonl": "[" * 200_000}, "SP-E793"),
        ({"settings.yaml": "chunks: {size: 10, overlap: 10}"}, "SP-E791"),
        ({"settings.yaml": 'input: {file_pattern: "("}', "input/a.txt": "x"}, "SP-E791"),
    ],
)
def test_a_corpus_that_cannot_be_read_is_refused_with_what_to_do(files, code: str, tmp_path: Path) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SoftpromptError) as raised:
        read_chunks(read_settings(tmp_path))
    assert raised.value.code == code


def test_json_rows_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"text": "one"}, {"text": "two"}]), encoding="utf-8-sig")
    found = read_chunks(Settings(tmp_path, r"\.json$"))
    assert [one.text for one in found] == ["one", "two"]


def test_chunks_cover_a_text_and_overlap_as_told() -> None:
    words = [f"w{n}" for n in range(25)]
    pieces = [piece.split() for piece in cut(" ".join(words), 10, 3)]
    assert pieces[0] == words[:10]
    assert [piece[:3] for piece in pieces[1:]] == [piece[-3:] for piece in pieces[:-1]]
    assert sorted({word for piece in pieces for word in piece}) == sorted(words)
    assert [len(one) for one in cut("北京是中国的首都" * 3, 10, 0)] == [10, 10, 4]
    assert cut("", 10, 3) == []


def test_an_excerpt_ends_with_a_sentence() -> None:
    assert excerpt("One two three. Four five six. Seven eight.", 9) == "One two three. Four five six."
    assert excerpt("word " * 50, 3) == "word word word"


def topics(count: int) -> list[Chunk]:
    """Chunks of four topics, one after the other, all different."""
    rng = Random(1)
    return [chunk(" ".join(rng.sample(TOPICS[n * 4 // count].split() * 3, 16)) + f" item{n}", n) for n in range(count)]


def topic(one: Chunk) -> int:
    return next(n for n, words in enumerate(TOPICS) if set(words.split()) & set(one.text.split()))


def test_diverse_chunks_are_of_every_topic_and_the_chosen_ones_are_those_that_were_meant() -> None:
    """Defect 2: GraphRAG's `auto` embeds a shuffled sample and takes rows of the unshuffled one."""
    chunks = topics(40)
    Random(5).shuffle(chunks)
    found = choose(chunks, "auto", 4, Random(0))
    assert sorted(map(topic, found)) == [0, 1, 2, 3]
    vectors = tfidf(chunks).toarray()
    at = [chunks.index(one) for one in found]
    for n in range(1, 4):  # each is the one whose nearest neighbour among those before is the farthest
        nearest = (vectors @ vectors[at[:n]].T).max(axis=1)
        nearest[at[:n]] = 2
        assert nearest[at[n]] == pytest.approx(nearest.min())


@pytest.mark.parametrize("how", ["auto", "random", "top"])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 14, 15, 16, 40])
def test_no_corpus_is_too_small_and_no_chunk_is_used_twice(how: str, count: int) -> None:
    """Defect 4: GraphRAG's tuner raises ValueError below 15 chunks."""
    chunks = [chunk(story(n), n) for n in range(count)]
    split = divide(chunks, how, 15, 6, 10, seed=3)
    used = [one.hash for one in (*split.shown, *split.dev, *split.held)]
    assert len(set(used)) == len(used)
    assert 1 <= len(split.shown) <= 15
    assert len(split.shown) + len(split.held) >= min(count, 20)
    assert bool(split.held) == (count > 1)
    assert split == divide(chunks, how, 15, 6, 10, seed=3)


def test_the_seed_decides_the_selection() -> None:
    chunks = [chunk(story(n), n) for n in range(40)]
    first, second = (divide(chunks, "random", 5, 0, 5, seed).shown for seed in (0, 1))
    assert first != second


def test_repeated_and_nearly_repeated_chunks_count_once() -> None:
    text = " ".join(story(n) for n in range(6))
    chunks = [
        chunk(text, 0),
        chunk(text.upper() + "!", 1),
        chunk(text + " Amen", 2),
        chunk(story(9), 3),
        chunk(" . ", 4),
    ]
    assert [one.source for one in different(chunks, Random(0))] == ["d0", "d3"]


def test_a_corpus_of_marks_alone_is_refused() -> None:
    with pytest.raises(SoftpromptError, match=r"SP-E792.*without a word"):
        divide([chunk("... !"), chunk("--", 1)], "auto", 1, 1, 1, 0)


def test_an_unknown_selection_is_refused() -> None:
    with pytest.raises(SoftpromptError, match=r"SP-E790.*did you mean 'random'"):
        divide([chunk("x")], "randem", 1, 1, 1, 0)

"""The running text for pretraining: clean, from sources that may be redistributed, without evaluation sentences."""

import itertools
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # `scripts` is run from the repository, not installed

from scripts.pretrain import sources
from scripts.pretrain.sources import Document, detokenise, documents, masc_text
from scripts.pretrain.targets import Targets, target_sentences, words_of

DATA = Path(__file__).parents[3] / "shared" / "data"
EXTRA = Path(__file__).parents[2] / "runs" / "extra"
shared = pytest.mark.skipif(not (DATA / "text").exists(), reason="../shared/data is absent")


def test_tokens_become_running_text() -> None:
    words = "He did n't , as `` they '' say ( twice ) , go ."
    assert detokenise(words.split(" ")) == 'He didn\'t, as "they" say (twice), go.'
    assert detokenise(["It", "cannot", "be", "John", "'s", "."]) == "It cannot be John's."


def test_a_tagged_hyphen_joins_its_words() -> None:
    assert masc_text([("year", "NN"), ("-", "-"), ("end", "NN"), (".", ".")]) == "year-end."


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"wordnet/data\.noun"):
        next(documents(tmp_path, tmp_path))


def test_a_target_sentence_is_found_whatever_its_case_and_spacing() -> None:
    targets = Targets(["What is n't the capital city of Nowhere Land ?", "too short"])
    assert targets.found_in("He asked: what isn't the capital city of nowhere land? Nobody knew.")
    assert not targets.found_in("What isn't the capital city of somewhere else?")
    assert not targets.found_in("It is too short.")


def test_the_refused_sources_are_not_among_the_sources() -> None:
    refused = ("trec", "cr", "sst2", "mrpc", "atis", "wnut17_ner", "brown", "movie_reviews", "treebank", "cola", "sick")
    assert not set(refused) & set(sources.SOURCES)
    assert all(source.licence and source.url_or_origin for source in sources.SOURCES.values())


@cache
def _texts() -> list[Document]:
    readers = (sources._masc, sources._genesis, sources._wikitext, sources._ud)
    return [document for reader in readers for document in list(reader(DATA))[:40]]


@shared
def test_documents_are_whole_and_clean() -> None:
    found = Counter(document.source for document in _texts())
    assert set(found) == {"masc", "genesis", "wikitext2", "ud_ewt"}
    assert set(found) < set(sources.SOURCES)
    for document in _texts():
        assert "<unk>" not in document.text
        assert "_NN" not in document.text
        assert "``" not in document.text
    masc = " ".join(document.text for document in _texts() if document.source == "masc")
    assert masc.count(" ,") < len(masc) / 20_000
    assert not any("Pierre Vinken" in document.text for document in _texts())


@shared
def test_every_sentence_of_a_target_is_refused() -> None:
    targets = Targets.read(DATA)
    sentences = [text for text in target_sentences(DATA) if len(words_of(text)) >= 6]
    assert len(sentences) > 20_000
    assert all(targets.found_in(f"Before. {text} After.") for text in sentences[::50])


@shared
@pytest.mark.skipif(not (EXTRA / "vader_lexicon.txt").exists(), reason="WordNet and VADER were not fetched")
def test_no_target_sentence_is_in_the_documents() -> None:
    exact = {" ".join(words_of(text)) for text in target_sentences(DATA) if len(words_of(text)) >= 6}
    for document in itertools.islice(documents(DATA, EXTRA), 300):
        for line in document.text.split("\n"):
            assert " ".join(words_of(line)) not in exact

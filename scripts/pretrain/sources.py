"""The texts a small backbone is pretrained on: every source lets the trained weights be redistributed."""

import itertools
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from scripts.pretrain.targets import Targets
from scripts.pretrain.wordnet import WordNet, articles


@dataclass(frozen=True)
class Source:
    """A text source with the terms it is under and where it comes from."""

    name: str
    licence: str
    url_or_origin: str


@dataclass(frozen=True)
class Document:
    """Running text of one whole document; paragraphs are separated by line breaks."""

    source: str
    text: str


@dataclass(frozen=True)
class Skill:
    """A task in words: `answer` continues `prompt` directly (it holds its leading space where one is due)."""

    source: str
    task: str
    prompt: str
    answer: str


_NLTK = "nltk_data"
SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source("masc", "free for education, research and development, also commercial", _NLTK + " masc_tagged"),
        Source("state_union", "public domain", _NLTK + " state_union"),
        Source("inaugural", "public domain", _NLTK + " inaugural"),
        Source("shakespeare", "public domain", _NLTK + " shakespeare"),
        Source("genesis", "public domain", _NLTK + " genesis (King James and World English Bible)"),
        Source("wikitext2", "CC BY-SA 3.0", "https://github.com/pytorch/examples (valid and test of WikiText-2)"),
        Source("ud_ewt", "CC BY-SA 4.0", "https://github.com/UniversalDependencies/UD_English-EWT"),
        Source("e2e_nlg", "CC BY-SA 4.0", "https://github.com/tuetschek/e2e-dataset (devset)"),
        Source("banking77", "CC BY 4.0", "https://github.com/PolyAI-LDN/task-specific-datasets (train)"),
        Source("clinc150", "CC BY 3.0", "https://github.com/clinc/oos-eval (train)"),
        Source("gsm8k", "MIT", "https://github.com/openai/grade-school-math (train)"),
        Source("snips", "CC0 1.0", "https://github.com/sonos/nlu-benchmark (train)"),
        Source("wordnet", "WordNet licence", "WordNet 3.0, Debian package wordnet-base"),
        Source("vader", "MIT", "package vaderSentiment 3.3.2 (vader_lexicon.txt)"),
        Source("templates", "Apache-2.0", "this repository, scripts/pretrain/skills"),
    )
}

_NEEDED = ("text", "wikitext2_valtest", "ud_ewt_devtest", "e2e_nlg", "banking77", "clinc150", "gsm8k", "snips")
_SPACING = (
    (re.compile(r"\s+([,.;:!?%)\]}]+)(?=\s|$|[\"'])"), r"\1"),
    (re.compile(r"([(\[{$#])\s+"), r"\1"),
    (re.compile(r"\s+(n't|'s|'re|'ve|'ll|'d|'m|'S)\b"), r"\1"),
    (re.compile(r"(?<=\w)- (?=\w)"), "-"),
    (re.compile(r"(?<=\w) / (?=\w)"), "/"),
    (re.compile(r"\b([Cc])an not\b"), r"\1annot"),
    (re.compile(r"  +"), " "),
)


def check(data: Path, extra: Path) -> None:
    """Raise FileNotFoundError with one line that names what is missing and how to get it."""
    missing = [str(data / name) for name in _NEEDED if not (data / name).exists()]
    missing += [str(extra / name) for name in ("wordnet/data.noun", "vader_lexicon.txt") if not (extra / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"pretraining text is missing: {', '.join(missing)}; the data folder is ../shared/data, the extra folder "
            "holds wordnet/ (Debian wordnet-base) and vader_lexicon.txt (PyPI vaderSentiment)"
        )


def detokenise(words: list[str]) -> str:
    """Join treebank tokens into running text: no space before a comma, straight quotes closed up."""
    text = " ".join(words).replace("``", '"').replace("''", '"').replace("-LRB-", "(").replace("-RRB-", ")")
    text = _close_quotes(text)
    for pattern, to in _SPACING:
        text = pattern.sub(to, text)
    return text.strip()


def _close_quotes(text: str) -> str:
    """Attach every other straight double quote to the word on its right or left."""
    pieces = text.split('"')
    if len(pieces) % 2 == 0:
        return text.replace(' " ', " ")
    out = pieces[0]
    for index, piece in enumerate(pieces[1:], start=1):
        inside = index % 2 == 1
        out += '"' + (piece.strip() if inside else piece)
    return out


def documents(data: Path, extra: Path) -> Iterator[Document]:
    """Yield every document without the paragraphs that hold a sentence of a data set kept for evaluation."""
    check(data, extra)
    targets = Targets.read(data)
    readers = (_masc, _addresses, _shakespeare, _genesis, _wikitext, _ud)
    found = itertools.chain.from_iterable(reader(data) for reader in readers)
    glosses = (Document("wordnet", text) for text in articles(WordNet(extra / "wordnet")))
    for document in itertools.chain(found, glosses):
        kept = [line for line in document.text.split("\n") if not targets.found_in(line)]
        text = re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()
        if len(text) > 40:
            yield Document(document.source, text)


def masc_files(data: Path) -> Iterator[tuple[str, list[list[tuple[str, str]]]]]:
    """Yield (genre, sentences of (word, tag)); an empty sentence marks a paragraph break.

    The newswire of the Penn Treebank that MASC also holds is left out, since those articles are under other terms.
    """
    with zipfile.ZipFile(data / "text" / "masc_tagged.zip") as archive:
        listing = archive.read("masc_tagged/categories.txt").decode().split("\n")
        for name, genre in (line.split() for line in listing if line.strip()):
            if "/wsj_" in name:
                continue
            text = archive.read(f"masc_tagged/{name}").decode("utf-8", errors="replace").replace("\r", "")
            yield genre, [[_pair(token) for token in line.split()] for line in text.split("\n")]


def _pair(token: str) -> tuple[str, str]:
    word, _, tag = token.rpartition("_")
    return (word, tag) if word else (tag, "X")


def masc_text(sentence: list[tuple[str, str]]) -> str:
    """Write one MASC sentence as running text; a hyphen tagged as such joins its neighbours."""
    joined = " ".join("\x00" if (word, tag) == ("-", "-") else word for word, tag in sentence)
    return detokenise(re.sub(r" ?\x00 ?", "-", joined).split(" "))


def _masc(data: Path) -> Iterator[Document]:
    for _, sentences in masc_files(data):
        breaks = (masc_text(sentence) if sentence else "\n" for sentence in sentences)
        text = re.sub(r" *\n *", "\n", " ".join(breaks))
        yield Document("masc", text)


def _addresses(data: Path) -> Iterator[Document]:
    for name in ("state_union", "inaugural"):
        with zipfile.ZipFile(data / "text" / f"{name}.zip") as archive:
            for file in sorted(n for n in archive.namelist() if re.search(r"\d{4}-.*\.txt$", n)):
                text = archive.read(file).decode("utf-8", errors="ignore").replace("\r", "")
                yield Document(name, re.sub(r"[ \t]+", " ", text))


def _shakespeare(data: Path) -> Iterator[Document]:
    with zipfile.ZipFile(data / "text" / "shakespeare.zip") as archive:
        for file in sorted(n for n in archive.namelist() if n.endswith(".xml")):
            play = ElementTree.fromstring(archive.read(file))
            title = play.findtext("TITLE", "")
            for scene in play.iter("SCENE"):
                yield Document("shakespeare", f"{title}\n{scene.findtext('TITLE', '')}\n\n" + _speeches(scene))


def _speeches(scene: ElementTree.Element) -> str:
    parts = []
    for speech in scene.iter("SPEECH"):
        lines = ["".join(line.itertext()).strip() for line in speech.iter("LINE")]
        parts.append(f"{speech.findtext('SPEAKER', '')}\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _genesis(data: Path) -> Iterator[Document]:
    with zipfile.ZipFile(data / "text" / "genesis.zip") as archive:
        for version in ("english-kjv", "english-web"):
            text = archive.read(f"genesis/{version}.txt").decode("utf-8", errors="ignore").replace("\r", "")
            sentences = re.sub(r"\s+", " ", text).split(". ")
            for start in range(0, len(sentences), 25):
                yield Document("genesis", ". ".join(sentences[start : start + 25]) + ".")


def wikitext_articles(data: Path) -> Iterator[list[str]]:
    """Yield each article as its lines, detokenised; one or two unknown words of a sentence become `[...]`."""
    for part in ("valid", "test"):
        lines: list[str] = []
        for line in (data / "wikitext2_valtest" / f"{part}.txt").read_text(encoding="utf-8").split("\n"):
            if re.fullmatch(r" = [^=].*[^=] = ", line) and lines:
                yield lines
                lines = []
            if line.strip():
                lines.append(_wikitext_line(line.strip()))
        yield lines


def _wikitext_line(line: str) -> str:
    if line.startswith("="):
        return "" if "<unk>" in line else "\n" + line.strip("= ")
    sentences = re.split(r"(?<= [.!?]) (?=[A-Z\"])", line)
    kept = [re.sub(r" @(.)@ ", r"\1", sentence) for sentence in sentences if sentence.count("<unk>") <= 2]
    return detokenise(" ".join(kept).split()).replace("<unk>", "[...]")


def _wikitext(data: Path) -> Iterator[Document]:
    for lines in wikitext_articles(data):
        yield Document("wikitext2", "\n".join(lines))


def ud_documents(data: Path) -> Iterator[tuple[str, list[tuple[str, list[tuple[str, str, str]]]]]]:
    """Yield (genre, sentences), a sentence being its text and its words with universal and Penn tags."""
    for part in ("dev", "test"):
        raw = (data / "ud_ewt_devtest" / f"{part}.conllu").read_text(encoding="utf-8")
        for document in raw.split("# newdoc id = ")[1:]:
            genre = document.split("-", 1)[0].strip()
            yield genre, [_ud_sentence(block) for block in document.split("\n\n") if "# text = " in block]


def _ud_sentence(block: str) -> tuple[str, list[tuple[str, str, str]]]:
    lines = block.split("\n")
    text = next(line[len("# text = ") :] for line in lines if line.startswith("# text = "))
    start = "\n" if any(line.startswith("# newpar") for line in lines) else ""
    cells = [line.split("\t") for line in lines if re.match(r"\d+\t", line)]
    return start + text, [(cell[1], cell[3], cell[4]) for cell in cells]


def _ud(data: Path) -> Iterator[Document]:
    for _, sentences in ud_documents(data):
        yield Document("ud_ewt", " ".join(text for text, _ in sentences).replace(" \n", "\n"))


def gsm8k(data: Path) -> list[tuple[str, str]]:
    """Read questions and worked answers of the train part, calculator marks removed."""
    rows = (data / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [json.loads(row) for row in rows]
    return [(row["question"].strip(), re.sub(r"<<.*?>>", "", row["answer"])) for row in pairs]

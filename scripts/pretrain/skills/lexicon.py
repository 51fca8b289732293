"""Word skills from WordNet: definitions, kinds, synonyms, opposites, parents, examples."""

import random
from collections.abc import Callable, Iterator

from scripts.pretrain.skills.corpus import Corpus
from scripts.pretrain.skills.wording import Wording, after
from scripts.pretrain.sources import Skill
from scripts.pretrain.wordnet import KINDS, Synset, WordNet

DEFINE = Wording(
    ("What does this word mean?", "Define the word.", "What is the meaning?", "Explain the word", "definition of"),
    ("definition", "meaning", "means"),
    ("{x}:", "{x} means", "What is the meaning of {x}?\n", "Define {x}.\n", "{x} is defined as", "dictionary: {x}\n"),
)
NAME = Wording(
    (
        "Which word has this meaning?",
        "What is this called?",
        "Find the word.",
        "Name what is described.",
        "Give a word for",
    ),
    ("word", "term", "name"),
    ("What do you call this? {x}\n", "{x}: this is called", "Meaning: {x}\nWord:", "A word for {x} is"),
)
KIND = Wording(
    ("What kind of thing is this?", "What is it?", "What sort of thing is it?", "Which category does it belong to?"),
    ("kind", "category", "type", "class"),
    ("{x} is a kind of", "The category of {x} is", "{x} names a", "What kind of thing is {x}?\n", "{x} belongs to:"),
)
SAME = Wording(
    ("Give a synonym.", "What is another word for it?", "Which word means the same?", "synonym"),
    ("synonym", "same meaning", "similar word"),
    ("Another word for {x} is", "{x} means the same as", "synonym of {x}:", "{x} =", "A synonym of {x}?\n"),
)
OPPOSITE = Wording(
    ("What is the opposite?", "Give an antonym.", "Which word means the contrary?", "antonym"),
    ("opposite", "antonym", "contrary"),
    ("The opposite of {x} is", "not {x} but", "antonym of {x}:", "{x} is the opposite of", "the contrary of {x}?\n"),
)
PARENT = Wording(
    ("It is a kind of what?", "Give a more general word.", "What is a broader term?", "hypernym"),
    ("broader term", "general word", "kind of"),
    ("A {x} is a kind of", "{x} is a type of", "Every {x} is a", "broader than {x}:", "{x} < "[:-1]),
)
EXAMPLE = Wording(
    (
        "Use the word in a sentence.",
        "Give an example with this word.",
        "Write a phrase with the word",
        "example of use",
    ),
    ("example", "sentence", "usage"),
    ("example of {x}:", "How is {x} used?\n", "A sentence with {x}:", "{x}, as in"),
)
TRUE = Wording(
    ("Yes or no?", "Is that true?", "True or not? Answer yes or no.", "Answer yes or no"),
    ("answer", "yes or no", "truth"),
    ("{x}\n", "{x}", "Q: {x}\nA:", "{x}\nanswer:", "question: {x}\nanswer (yes or no):"),
)
WORDINGS = {
    "define": DEFINE, "name": NAME, "kind": KIND, "same": SAME, "opposite": OPPOSITE, "parent": PARENT,
    "example": EXAMPLE, "true": TRUE,
}  # fmt: skip
Maker = Callable[[WordNet, random.Random, str, Synset], tuple[Wording, str, str] | None]


def _define(_: WordNet, rng: random.Random, word: str, synset: Synset) -> tuple[Wording, str, str]:
    if rng.random() < 0.5:
        return DEFINE, word, synset.gloss
    return NAME, synset.gloss, word


def _kind(wordnet: WordNet, rng: random.Random, word: str, synset: Synset) -> tuple[Wording, str, str] | None:
    kind = KINDS.get(synset.kind)
    if not kind:
        return None
    if word[0].isupper():
        kind = wordnet.names.get(word, kind)
    return KIND, word, kind


def _same(_: WordNet, rng: random.Random, word: str, synset: Synset) -> tuple[Wording, str, str] | None:
    others = [other for other in synset.words if other.lower() != word.lower()]
    return (SAME, word, rng.choice(others)) if others else None


def _opposite(wordnet: WordNet, _: random.Random, word: str, synset: Synset) -> tuple[Wording, str, str] | None:
    for symbol, key, between in synset.links:
        if symbol == "!" and synset.words[int(between[:2], 16) - 1].lower() == word:
            return OPPOSITE, word, wordnet.synsets[key].words[int(between[2:], 16) - 1]
    return None


def _parent(wordnet: WordNet, rng: random.Random, word: str, synset: Synset) -> tuple[Wording, str, str] | None:
    parents = [parent for parent in wordnet.linked(synset, "@") if len(list(wordnet.ancestors(parent))) > 2]
    return (PARENT, word, rng.choice(parents).words[0]) if parents and synset.part == "n" else None


def _example(_: WordNet, rng: random.Random, word: str, synset: Synset) -> tuple[Wording, str, str] | None:
    texts = [text for text in synset.examples if word in text.lower()]
    return (EXAMPLE, word, rng.choice(texts)) if texts else None


def _true(wordnet: WordNet, rng: random.Random, word: str, synset: Synset) -> tuple[Wording, str, str] | None:
    parents = list(wordnet.ancestors(synset))[:-4]
    if synset.part != "n" or not parents:
        return None
    right = rng.choice(parents)
    if rng.random() < 0.5:
        other, answer = right.words[0], "yes"
    else:
        row = rng.choice(wordnet.by_kind[rng.choice(list(wordnet.by_kind))])
        above = {name for parent in [synset, *wordnet.ancestors(synset)] for name in parent.words}
        if row[0] in above or synset.words[0] in row[1].words:
            return None
        other, answer = row[0], "no"
    frame = rng.choice(("Is {} a kind of {}?", "Is {} {}?", "{} is a type of {}.", "Can {} be called {}?"))
    text = frame.format(_a(word), other if "of {}" in frame else _a(other))
    return TRUE, text[0].upper() + text[1:], answer


def _a(noun: str) -> str:
    return noun if noun[0].isupper() else ("an " if noun[0] in "aeiou" else "a ") + noun


_MAKERS: tuple[tuple[Maker, str, float], ...] = (
    (_define, "definition", 4),
    (_kind, "kind of word", 5),
    (_same, "synonym", 3),
    (_opposite, "antonym", 5),
    (_parent, "broader word", 3),
    (_example, "word in use", 1.5),
    (_true, "is it a", 3),
)


def words(corpus: Corpus, rng: random.Random) -> Iterator[Skill]:
    """Draw words (mostly common ones, in their first sense) and tasks without end."""
    wordnet = corpus.wordnet
    common = [(word, part) for part in "nvar" for word in wordnet.common[part] if len(word) > 2]
    every = [key for key in wordnet.senses if len(key[0]) > 2 and key[0].isascii()]
    named = [name for name in wordnet.names if name.isascii()]
    weights = [weight for *_, weight in _MAKERS]
    while True:
        draw = rng.random()
        word, part = rng.choice(common if draw < 0.6 else every)
        if draw > 0.9:
            word, part = rng.choice(named), "n"
        synset = wordnet.first(word, part)
        make, task, _ = rng.choices(_MAKERS, weights)[0]
        made = make(wordnet, rng, _spelling(word, synset), synset) if synset else None
        if made:
            wording, text, answer = made
            prompt = wording.prompt(rng, text)
            yield Skill("wordnet", task, prompt, after(prompt, answer))


def _spelling(word: str, synset: Synset | None) -> str:
    """Give a lower-cased index word the capitals of its sense."""
    return next((name for name in synset.words if name.lower() == word.lower()), word) if synset else word


def odd_one_out(corpus: Corpus, rng: random.Random) -> Iterator[Skill]:
    """Which word does not belong, which one is an animal, and so on."""
    by_kind = {kind: corpus.wordnet.by_kind[file] for file, kind in KINDS.items() if file in corpus.wordnet.by_kind}
    kinds = list(by_kind)
    while True:
        first, second = rng.sample(kinds, 2)
        alone = rng.choice(by_kind[first])[0]
        rest = [word for word, _ in rng.sample(by_kind[second], rng.choice((2, 3, 4)))]
        shown = [alone, *rest]
        rng.shuffle(shown)
        listed = rng.choice((", ", " / ", "; ")).join(shown)
        if rng.random() < 0.5:
            prompt = rng.choice(("Which one is a {k}? {x}\nanswer:", "{x}\nFind the {k}.\n", "{k}? {x} ->")).format(
                k=first, x=listed
            )
        else:
            prompt = rng.choice(
                ("{x}\nWhich word does not belong?\nanswer:", "Odd one out: {x}\n", "{x}\nnot a {k}:")
            ).format(k=second, x=listed)
        yield Skill("wordnet", "odd one out", prompt, after(prompt, alone))

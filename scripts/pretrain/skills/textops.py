"""Skills on the form of a text: tags, counts, order, copies, genres, completions."""

import random
from collections.abc import Callable, Iterator

from scripts.pretrain.skills.corpus import Corpus, Sentence
from scripts.pretrain.skills.wording import Wording, after
from scripts.pretrain.sources import Skill

_PLAIN = {"NN": "noun", "NNS": "noun", "NNP": "name", "NNPS": "name", "JJ": "adjective", "JJR": "adjective",
          "JJS": "adjective", "RB": "adverb", "RBR": "adverb", "RBS": "adverb", "VB": "verb", "VBD": "verb",
          "VBG": "verb", "VBN": "verb", "VBP": "verb", "VBZ": "verb", "MD": "verb", "IN": "preposition",
          "TO": "to", "DT": "article", "PRP": "pronoun", "PRP$": "pronoun", "CC": "conjunction", "CD": "number",
          "WP": "pronoun", "WRB": "adverb", "UH": "interjection", "EX": "there", "RP": "particle"}  # fmt: skip


def _wording(questions: str, keys: str, forms: str) -> Wording:
    return Wording(tuple(questions.split("|")), tuple(keys.split("|")), tuple(forms.replace("\\n", "\n").split("|")))


WORDINGS = {
    "tags": _wording(
        "Tag each word.|Give the part of speech of every word.|Which kind of word is each word?|Tag the sentence",
        "tags|parts of speech|word classes", "{x}\\ntags:|{x}\\nword classes:|Tag: {x}\\n"),
    "genre": _wording(
        "What kind of text is this from?|Where could this stand?|Name the genre.|What genre is the text?",
        "genre|text type|from", "{x}\\ngenre:|{x}\\nThis is from a|Text: {x}\\nGenre:"),
    "first": _wording("What is the first word?|Name the first word.|Which word comes first?|first word",
                      "first word|first|starts with", "{x}\\nfirst word:|{x}\\nIt begins with"),
    "last": _wording("What is the last word?|Name the last word.|Which word comes last?|last word",
                     "last word|last|ends with", "{x}\\nlast word:|{x}\\nIt ends with"),
    "copy": _wording("Copy the text.|Repeat the sentence.|Say it again.|Write the same", "copy|again|repeat",
                     "{x}\\ncopy:|repeat: {x}\\n|Copy: {x}\\n"),
    "reverse": _wording("Reverse it.|Write the words backwards.|Give the words from last to first.|reverse order",
                        "reversed|backwards|from last to first", "{x}\\nreversed:|backwards: {x}\\n"),
    "count": _wording("How many words are there?|Count the words.|What is the number of words?|number of words",
                      "words|count|length", "{x}\\nnumber of words:|{x}\\nword count:"),
    "upper": _wording("Write it in capitals.|Use upper case.|Make all letters capital.|upper case",
                      "capitals|upper case|in capitals", "{x}\\nin capitals:|upper: {x}\\n"),
    "sort": _wording("Sort the words.|Put the words in alphabetical order.|Order the words from a to z.|sort",
                     "sorted|alphabetical|a to z", "{x}\\nsorted:|sort: {x}\\n"),
    "question": _wording("Is this a question?|Does the sentence ask something?|Is something asked?|question or not?",
                         "is a question|asks|question", "{x}\\nA question?|{x}\\nis it a question:"),
    "occurs": _wording("Does it occur?|Yes or no?|Is that so?|Answer yes or no", "answer|occurs|found",
                       "{x}\\n|{x}\\nyes or no:"),
    "spell": _wording("Spell the word.|Write the letters one by one.|Give the letters of the word.|spell",
                      "letters|spelling|spelt", "{x}\\nletters:|spell {x}:"),
}  # fmt: skip
WORDINGS["pick"] = _wording(
    "List the @s.|Which words are @s?|Find all @s.|Give every @ of the sentence.|@s",
    "@s|all @s|list of @s",
    "{x}\\n@s:|@s in: {x}\\n",
)
_Made = tuple[str, str, str] | None


def _tags(rng: random.Random, sentence: Sentence) -> _Made:
    rows = [
        (word, _PLAIN.get(tag, "mark" if not word[:1].isalnum() else "other")) for word, tag in sentence.tagged[:18]
    ]
    if rng.random() < 0.3:
        rows = list(sentence.tagged[:18])
    form = rng.choice(("{0}/{1}", "{0} ({1})", "{1}"))
    return "tags", " ".join(word for word, _ in rows), " ".join(form.format(word, tag) for word, tag in rows)


def _pick(rng: random.Random, sentence: Sentence) -> _Made:
    kind = rng.choice(("noun", "verb", "adjective", "adverb", "name", "pronoun", "number"))
    found = [word for word, tag in sentence.tagged if _PLAIN.get(tag) == kind]
    if not found and rng.random() < 0.8:
        return None
    return f"pick:{kind}", sentence.text, ", ".join(found) or "none"


def _genre(_: random.Random, sentence: Sentence) -> _Made:
    if sentence.genre in ("face-to-face", "spam", "answers") or len(sentence.tagged) < 8:
        return None
    genre = {"weblog": "blog", "reviews": "review", "govt-docs": "government document"}.get(
        sentence.genre, sentence.genre
    )
    return "genre", sentence.text, genre.replace("-", " ").removesuffix("s") if genre != "news" else genre


def _chunk(rng: random.Random, sentence: Sentence, least: int, most: int) -> list[str]:
    words = [word for word, _ in sentence.tagged if word[:1].isalnum()]
    size = min(rng.randint(least, most), len(words))
    start = rng.randrange(len(words) - size + 1)
    return words[start : start + size]


def _first(rng: random.Random, sentence: Sentence) -> _Made:
    words = _chunk(rng, sentence, 3, 15)
    return ("first", " ".join(words), words[0]) if rng.random() < 0.5 else ("last", " ".join(words), words[-1])


def _copy(rng: random.Random, sentence: Sentence) -> _Made:
    words = _chunk(rng, sentence, 2, 14)
    return "copy", " ".join(words), " ".join(words)


def _reverse(rng: random.Random, sentence: Sentence) -> _Made:
    words = _chunk(rng, sentence, 2, 7)
    return "reverse", " ".join(words), " ".join(reversed(words))


def _count(rng: random.Random, sentence: Sentence) -> _Made:
    words = _chunk(rng, sentence, 1, 12)
    return "count", " ".join(words), str(len(words))


def _upper(rng: random.Random, sentence: Sentence) -> _Made:
    words = _chunk(rng, sentence, 1, 8)
    return "upper", " ".join(words), " ".join(words).upper()


def _sort(rng: random.Random, sentence: Sentence) -> _Made:
    words = sorted({word.lower() for word in _chunk(rng, sentence, 3, 7)})
    mixed = rng.sample(words, len(words))
    return "sort", " ".join(mixed), " ".join(words)


def _question(_: random.Random, sentence: Sentence) -> _Made:
    if sentence.text[-1] not in ".!?":
        return None
    text = sentence.text[:-1].rstrip() if len(sentence.text) % 2 else sentence.text
    return "question", text, "yes" if sentence.text[-1] == "?" else "no"


def _occurs(rng: random.Random, sentence: Sentence) -> _Made:
    words = _chunk(rng, sentence, 5, 16)
    inside = rng.random() < 0.5
    word = (
        rng.choice(words) if inside else rng.choice(("the", "not", "people", "money", "house", "and", "never", "city"))
    )
    frame = rng.choice(('{}\nDoes the word "{}" occur?', '{}\nIs "{}" in the text?', "text: {}\nword: {}\ncontained?"))
    return "occurs", frame.format(" ".join(words), word), "yes" if word in words else "no"


def _spell(rng: random.Random, sentence: Sentence) -> _Made:
    words = [word for word, _ in sentence.tagged if word.isalpha() and 2 < len(word) < 10]
    if not words:
        return None
    word = rng.choice(words)
    return "spell", word, rng.choice((" ", "-")).join(word)


_MAKERS: tuple[tuple[Callable[[random.Random, Sentence], _Made], float], ...] = (
    (_tags, 2),
    (_pick, 3),
    (_genre, 1.5),
    (_first, 2),
    (_copy, 2),
    (_reverse, 1.5),
    (_count, 1.5),
    (_upper, 1),
    (_sort, 1),
    (_question, 2),
    (_occurs, 2),
    (_spell, 1),
)


def textops(corpus: Corpus, rng: random.Random) -> Iterator[Skill]:
    """Every task on the tagged sentences, without end; questions are drawn more often than they are."""
    pool = [s for s in corpus.sentences if any(word[:1].isalnum() for word, _ in s.tagged)]
    asked = [s for s in pool if s.text.endswith("?")]
    weights = [weight for _, weight in _MAKERS]
    while True:
        make = rng.choices(_MAKERS, weights)[0][0]
        source = rng.choice(asked if make is _question and rng.random() < 0.45 else pool)
        made = make(rng, source)
        if made:
            name, text, answer = made
            name, _, kind = name.partition(":")
            prompt = WORDINGS[name].prompt(rng, "{x}").replace("@", kind).replace("{x}", text)
            yield Skill(source.source, f"text: {name}", prompt, after(prompt, answer))


def completion(corpus: Corpus, rng: random.Random) -> Iterator[Skill]:
    """Choose the true continuation of a sentence, or fill one gap from several words."""
    texts = [("wikitext2", text) for text in corpus.wiki_sentences]
    texts += [(s.source, s.text) for s in corpus.sentences if 10 <= len(s.tagged) <= 30]
    while True:
        source, text = rng.choice(texts)
        words = text.split()
        cut = rng.randint(3, max(4, len(words) - 3))
        if rng.random() < 0.5:
            others = [
                " ".join(rng.choice(texts)[1].split()[-(len(words) - cut) :]) for _ in range(rng.choice((1, 2, 3)))
            ]
            head, right = " ".join(words[:cut]) + " ...", " ".join(words[cut:])
            ask = rng.choice(
                ("How does it go on?", "Choose the ending.", "Which ending fits?", "Pick the continuation.")
            )
        else:
            right = words[cut]
            others = [word for _, other in rng.sample(texts, 3) if (word := rng.choice(other.split())) != right]
            head = " ".join([*words[:cut], "___", *words[cut + 1 :]])
            ask = rng.choice(
                ("Which word fills the gap?", "Fill in the blank.", "What is missing?", "Choose the word.")
            )
        options = [*others, right]
        rng.shuffle(options)
        form = rng.choice(
            ("{h}\n{q}\n- {o}\nanswer:", "{q}\n{h}\n- {o}\n\n", "{h}\n- {o}\n{q}\n", "{h}\n{q}\n{l}\nanswer:")
        )
        prompt = form.format(h=head, q=ask, o="\n- ".join(options), l=" / ".join(options))
        yield Skill(source, "completion", prompt, after(prompt, right))

"""What a request wants: intents of assistants' users and bank customers, open, by choice, and in pairs."""

import random
from collections.abc import Iterator

from scripts.pretrain.skills.corpus import Corpus
from scripts.pretrain.skills.wording import Wording, after
from scripts.pretrain.sources import Skill

INTENT = Wording(
    (
        "What does the user want?",
        "What is the intent?",
        "What is this request about?",
        "Name the intent of the message.",
        "Which topic is this?",
        "What is being asked for?",
        "Classify the request",
        "What is the customer asking about?",
        "Give the topic in a few words.",
        "intent",
    ),
    ("intent", "topic", "label", "request", "about"),
    (
        "user: {x}\nintent:",
        "{x}\nThe user wants:",
        "Customer: {x}\nTopic:",
        "{x} This is about",
        "utterance: {x}\nlabel:",
    ),
)
CHOICE = Wording(
    ("Which one fits?", "Choose the intent.", "Pick the right topic.", "What is the request about? Choose one."),
    ("choice", "intent", "topic"),
    ("{x}\nBest option:", "{x}\nChoice:", "{x}\nlabel:"),
)
PAIR = Wording(
    (
        "Do both ask for the same thing?",
        "Do these two have the same intent?",
        "Same intent?",
        "Are these requests alike?",
        "Is the second request the same as the first?",
    ),
    ("same", "same intent", "alike"),
    ("{x}\nDo they want the same? Yes or no:", "{x}\nThe same request?", "Compare.\n{x}\n"),
)
WORDINGS = {"intent": INTENT, "choice": CHOICE, "pair": PAIR}


def intents(corpus: Corpus, rng: random.Random) -> Iterator[Skill]:
    """Requests of three sources, without end."""
    pools: dict[str, list[tuple[str, str]]] = {
        "banking77": corpus.banking,
        "clinc150": corpus.clinc,
        "snips": [(text, intent) for text, intent, _ in corpus.snips],
    }
    tables = {name: _by_label(rows) for name, rows in pools.items()}
    while True:
        source = rng.choices(("banking77", "clinc150", "snips"), (3, 5, 1.5))[0]
        text, label = rng.choice(pools[source])
        draw = rng.random()
        if draw < 0.5:
            prompt = INTENT.prompt(rng, text)
            yield Skill(source, "intent", prompt, after(prompt, label))
        elif draw < 0.75:
            yield _choice(rng, source, text, label, list(tables[source]))
        else:
            yield _pair(rng, source, text, label, tables[source])


def _by_label(rows: list[tuple[str, str]]) -> dict[str, list[str]]:
    table: dict[str, list[str]] = {}
    for text, label in rows:
        table.setdefault(label, []).append(text)
    return table


def _choice(rng: random.Random, source: str, text: str, label: str, labels: list[str]) -> Skill:
    others = rng.sample([other for other in labels if other != label], rng.choice((2, 3, 4)))
    options = [*others, label]
    rng.shuffle(options)
    listed = rng.choice((", ", " or ", " / ", "\n- ")).join(options)
    head = rng.choice(("options: ", "- ", "choices: ")) if "\n-" not in listed else "- "
    prompt = CHOICE.prompt(rng, f"{text}\n{head}{listed}")
    return Skill(source, "intent choice", prompt, after(prompt, label))


def _pair(rng: random.Random, source: str, text: str, label: str, table: dict[str, list[str]]) -> Skill:
    same = rng.random() < 0.5
    other = rng.choice(table[label if same else rng.choice([name for name in table if name != label])])
    joined = rng.choice(("{}\n{}", "1. {}\n2. {}", "A: {}\nB: {}", "first: {}\nsecond: {}")).format(text, other)
    prompt = PAIR.prompt(rng, joined)
    return Skill(source, "same intent", prompt, after(prompt, "yes" if same else "no"))

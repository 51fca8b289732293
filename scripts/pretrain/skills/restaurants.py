"""Restaurant descriptions: meaning to text, text to meaning, text to one attribute."""

import random
import re
from collections.abc import Iterator

from scripts.pretrain.skills.corpus import Corpus
from scripts.pretrain.skills.wording import Wording, after
from scripts.pretrain.sources import Skill

WRITE = Wording(
    (
        "Describe the restaurant.",
        "Write a sentence with this information.",
        "Turn the data into text.",
        "Say it in words.",
        "Put the facts into one or two sentences.",
        "Tell a guest about the place",
    ),
    ("text", "description", "sentence"),
    ("{x}\ntext:", "data: {x}\ntext:", "{x} =>", "{x}\nIn words:", "meaning: {x}\nreference:"),
)
READ = Wording(
    (
        "What facts does the text give?",
        "List the attributes.",
        "Extract the data from the description.",
        "Which details are mentioned?",
        "Write it as data",
    ),
    ("data", "facts", "attributes", "meaning"),
    ("{x}\ndata:", "text: {x}\nmeaning:", "{x}\nfacts:", "{x} =>"),
)
WORDINGS = {"write": WRITE, "read": READ}
_ONE = (
    "{x}\nWhat is the {k}?\nanswer:",
    "{x}\n{k}:",
    "What is the {k}? {x}\n",
    "{x}\nThe {k} is",
    "text: {x}\n{k} =",
    "{x}\nQ: {k}?\nA:",
    "Find the {k}.\n{x}\nanswer:",
    "{x}\nWhich {k}?\n",
)


def words(key: str) -> str:
    """Write an attribute's name in words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key).lower().replace("eat type", "kind of place")


def linear(rng: random.Random, mr: dict[str, str]) -> str:
    """Write a meaning in one of several forms."""
    form = rng.randrange(6)
    pairs = list(mr.items())
    if form in (0, 1):
        return ", ".join(f"{key}[{value}]" for key, value in pairs)
    if form == 2:
        return " | ".join(f"{words(key)}: {value}" for key, value in pairs)
    if form == 3:
        return "; ".join(f"{words(key)} = {value}" for key, value in pairs)
    if form == 4:
        return ", ".join(f"{key} = {value}" for key, value in pairs)
    return "\n".join(f"{words(key)}: {value}" for key, value in pairs)


def restaurants(corpus: Corpus, rng: random.Random) -> Iterator[Skill]:
    """Every task over all meanings, without end."""
    while True:
        mr, texts = rng.choice(corpus.e2e)
        text = rng.choice(texts)
        draw = rng.random()
        if draw < 0.5:
            prompt = WRITE.prompt(rng, linear(rng, mr))
            yield Skill("e2e_nlg", "data to text", prompt, after(prompt, text))
        elif draw < 0.72:
            prompt = READ.prompt(rng, text)
            yield Skill("e2e_nlg", "text to data", prompt, after(prompt, linear(rng, mr)))
        else:
            key = rng.choice([*mr, "food", "area", "near"])
            value = mr.get(key, "not given")
            if value == "not given" or value.lower() in text.lower() or key in ("familyFriendly", "customer rating"):
                prompt = rng.choice(_ONE).format(x=text, k=words(key))
                yield Skill("e2e_nlg", "one attribute", prompt, after(prompt, value))

"""What a recipe leaves open, decided: head, template, start and rate, as the method's paper and the model suggest."""

from collections.abc import Mapping, Sequence
from typing import Any

from softprompt.backbones import Backbone
from softprompt.data import TaskKind
from softprompt.errors import RecipeError, near
from softprompt.methods import Method, find
from softprompt.recipe import Recipe
from softprompt.sections import TaskSection
from softprompt.template import continuation, writable, wrong

FEW = 20  # classes up to which words stand for them by default
LONGEST = 4  # tokens of a class word up to which words are the default
RATES = (0.005, 0.3)  # the bounds of `lr: auto`, per step


def check_words(words: Mapping[str, Any], head: str, labels: tuple[str, ...], key: str = "words") -> None:
    """Raise `RecipeError` for words that would be ignored: of classes that do not exist, or that no head reads."""
    if words and head != "verbalizer":
        raise unread(f"task.{key}", head)
    for label in words:
        if label not in labels:
            found = f"a word for {label[:80]!r}{near(label, list(labels))}, which is no class"
            raise RecipeError("SP-E215", found, f"one of {', '.join(labels[:20])}", f"mend task.{key}")


def check_scoring(task: TaskSection, head: str, labels: tuple[str, ...]) -> None:
    """Raise `RecipeError` SP-E215 for words, and ways to score them, that would be ignored."""
    check_words(task.words, head, labels)
    check_words(task.synonyms, head, labels, "synonyms")
    ignored = {"task.calibrate": task.calibrate != "none", "task.demonstrations": task.demonstrations}
    for name, asked in ignored.items():
        if asked and head != "verbalizer":
            raise unread(name, head)
    if task.join != "mean" and not task.synonyms:
        do = "set task.synonyms, or leave task.join out"
        raise RecipeError("SP-E215", f"task.join={task.join} for one word a class", "several words for a class", do)


def unread(name: str, head: str) -> RecipeError:
    """A setting about class words for a head that reads none."""
    do = f"set task.head=verbalizer, or leave {name} out"
    return RecipeError("SP-E215", f"{name} for a {head} head", "a head that reads words", do)


def choose_init(recipe: Recipe, method: type[Method]) -> str:
    """The kind of start that was asked for or follows; raises `RecipeError` where a setting would be ignored."""
    init, followed = recipe.init, "text" if recipe.init.text else method.default_init
    kind = init.kind if init.kind != "auto" else "prompt" if init.source else followed
    for needed, value, name in (("prompt", init.source, "init.source"), ("text", init.text, "init.text")):
        if value and kind != needed:
            raise RecipeError("SP-E207", f"{name} with init.kind={kind}", f"init.kind={needed}", f"leave {name} out")
    if kind == "prompt" and not init.source:
        raise RecipeError("SP-E207", "init.kind=prompt alone", "the path of an artifact", "set init.source")
    if method.borrows and not init.sources:
        expected = "trained prompts of other tasks"
        raise RecipeError("SP-E207", f"method {recipe.method.name} without init.sources", expected, "set init.sources")
    if init.sources and not method.borrows:
        found, expected = f"init.sources for {recipe.method.name}", "a method that reads several prompts"
        raise RecipeError("SP-E207", found, expected, "leave init.sources out")
    return kind


def spoken(label: str) -> str:
    """A class name as a word: `card_lost` is read as "card lost"."""
    return label.replace("_", " ").replace("-", " ").strip() or label


def choose_head(recipe: Recipe, method: type[Method], backbone: Backbone, kind: TaskKind, words: dict[str, str]) -> str:
    """The head that was asked for, or the one that fits the task, the method's paper and the backbone."""
    if recipe.task.head != "auto":
        return recipe.task.head
    single = {"tagging": "tagger", "regression": "regressor", "generation": "lm"}.get(kind)
    if single:
        return single
    if backbone.spec.kind == "seq2seq" or ((recipe.task.words or recipe.task.synonyms) and speaks(backbone)):
        return "verbalizer"
    if method.default_head != "verbalizer" or not speaks(backbone) or not 0 < len(words) <= FEW:
        return "classifier"
    short = all(len(continuation(backbone.tokenizer, word)) <= LONGEST for word in words.values())
    return "verbalizer" if short else "classifier"


def speaks(backbone: Backbone) -> bool:
    """True where the checkpoint predicts words."""
    if backbone.spec.kind == "encoder":
        return backbone.model.base_model is not backbone.model
    return backbone.spec.kind in ("causal", "seq2seq")


def default_template(
    method: type[Method], backbone: Backbone, head: str, texts: Sequence[str], options: dict[str, Any] | None = None
) -> str:
    """Prompt, columns, answer. Several columns are named, because the model cannot see the header."""
    soft = "{soft}" if method.stands_in_text(options or {}) else ""
    if backbone.spec.kind == "vision":
        return soft
    for name in texts:
        if not writable(name):
            raise wrong(name, f"column {name[:80]!r}, which no template can name,", "rename the column")
    body = "{" + texts[0] + "}" if len(texts) == 1 else " ".join(f"{name}: {{{name}}}" for name in texts)
    if head == "verbalizer" and backbone.spec.kind == "encoder":
        return f"{soft}{body} It is {{mask}}."
    return f"{soft}{body}\nanswer: {{mask}}" if head in ("verbalizer", "lm") else f"{soft}{body}"


def choose_rate(recipe: Recipe, examples: int) -> float:
    """The rate, in units of what it moves, that lets the prompt travel far enough in the steps there are.

    An Adam step moves a coordinate by at most about the rate, so the rates of a run sum up to the longest way it can
    go; prompts that cannot move by several times their own size stay what they were (measured: docs/results.md).
    """
    if recipe.optim.lr != "auto":
        return recipe.optim.lr
    size = recipe.train.batch_size * recipe.train.accumulate
    steps = recipe.train.steps or recipe.train.epochs * -(-examples // size)
    mean = 1.0 if recipe.optim.schedule == "constant" else 0.5
    low, high = RATES
    return round(min(high, max(low, find(recipe.method.name).travel / (steps * mean))), 4)

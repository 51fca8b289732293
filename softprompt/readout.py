"""The head that a recipe names, fitted to its task and its backbone: class words as tokens, labels counted."""

from typing import TYPE_CHECKING, Any

import torch

from softprompt.backbones import Backbone
from softprompt.choices import speaks, spoken
from softprompt.errors import RecipeError
from softprompt.heads import Classifier, Head, LanguageModel, Regressor, Tagger, Verbalizer
from softprompt.init import sample_vocabulary
from softprompt.methods import find
from softprompt.template import Template

if TYPE_CHECKING:
    from softprompt.plan import Plan


def make_head(plan: "Plan", backbone: Backbone, template: Any) -> Head:
    """The head that the recipe names; raises `RecipeError` where it does not fit the task or the backbone."""
    task, states = plan.recipe.task, backbone.spec.states
    fitting = {
        "classification": ("verbalizer", "classifier"),
        "tagging": ("tagger",),
        "regression": ("regressor",),
        "generation": ("lm",),
    }[plan.kind]
    if task.head not in fitting:
        raise RecipeError("SP-E208", f"head {task.head} for {plan.kind}", " or ".join(fitting), "set task.head")
    if task.head in ("verbalizer", "lm") and not speaks(backbone):
        raise RecipeError(
            "SP-E208",
            f"head {task.head} on {backbone.name}, which predicts no words",
            "a trained head, or a backbone with a language-model head",
            "set task.head=classifier, or choose another backbone",
        )
    if task.head == "lm":
        if backbone.spec.kind == "encoder":
            raise RecipeError("SP-E208", "generation with an encoder", "a backbone that writes", "use a causal model")
        return LanguageModel()
    if task.head == "verbalizer":
        return make_verbalizer(plan, backbone, template)
    pool = "mean" if task.pool == "auto" else task.pool
    if task.head == "tagger":
        return Tagger(states, len(plan.labels))
    if task.head == "regressor":
        numbers = torch.tensor([float(str(example.label)) for example in plan.train], dtype=torch.float64)
        scale = numbers.std(correction=0).item()  # 0 where all are the same
        return Regressor(states, mean=numbers.mean().item(), scale=scale or 1.0, pool=pool)
    return Classifier(states, len(plan.labels), pool=pool)


def make_verbalizer(plan: "Plan", backbone: Backbone, template: Template) -> Verbalizer:
    """The words of the classes as tokens; raises `RecipeError` where two classes, or a class twice, have the same.

    Where the tokens of one word begin with all those of another, the shorter would always be the likelier answer, so
    then every answer ends in EOS.
    """
    task = plan.recipe.task
    texts = {label: [task.words.get(label, spoken(label)), *task.synonyms.get(label, ())] for label in plan.labels}
    tokens = {label: [template.continue_with(word) for word in own] for label, own in texts.items()}
    seen = distinct(texts, tokens)
    fill, end = backbone.spec.kind == "encoder", backbone.tokenizer.eos_token_id
    inside = any(a[: len(b)] == b for a in seen for b in seen if len(b) < len(a))
    closing = [end] if inside and not fill and end is not None else []
    closed = [[[*word, *closing] for word in tokens[label]] for label in plan.labels]
    more = [own[1:] for own in closed] if task.synonyms else []
    method = plan.recipe.method
    rows = find(method.name).label_rows(method.options)
    made = Verbalizer([own[0] for own in closed], fill=fill, more=more, join=task.join, rows=spread(backbone, rows))
    if rows and not made.one_pass:
        found = f"label vectors ({method.name}) for class words of several tokens"
        raise RecipeError("SP-E753", found, "words of one token each", "set task.words to shorter words")
    return made


def distinct(texts: dict[str, list[str]], tokens: dict[str, list[list[int]]]) -> list[tuple[int, ...]]:
    """All words as tokens, once each; raises `RecipeError` SP-E209 for empty words and for equal ones."""
    seen: dict[tuple[int, ...], str] = {}
    for label, own in tokens.items():
        for text, ids in zip(texts[label], own, strict=True):
            if not ids or not text.strip():
                found, do = f"no tokens for class {label!r}", "set task.words"
                raise RecipeError("SP-E209", found, "a word for each class", do)
            if tuple(ids) in seen:
                found = f"the same tokens for classes {seen[tuple(ids)]!r} and {label!r}"
                raise RecipeError("SP-E209", found, "a different word for each class", "set task.words")
            seen[tuple(ids)] = label
    return list(seen)


def spread(backbone: Backbone, count: int) -> list[int]:
    """Different frequent tokens, at most `count`, the same for every run: what label vectors are made of."""
    return list(dict.fromkeys(sample_vocabulary(backbone, count, torch.Generator().manual_seed(0)))) if count else []

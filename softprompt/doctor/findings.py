"""What the doctor found: the rule, the number seen, the threshold, and the command that mends it."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from softprompt.errors import SoftpromptError

Severity = Literal["error", "warning", "info"]
DEEP = ("method.name=prefix",)  # settings that mend more than one thing
LOWER = ("optim.lr=auto",)
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")

RULES = {
    "damaged": "a prompt file that is not what was written, or that could run code",
    "wrong-base": "a prompt for another backbone, tokenizer or data",
    "no-effect": "a prompt that answers otherwise than when it was made, or changes nothing",
    "refused": "anything else that cannot start",
    "labels": "labels outside the set, words that cannot tell classes apart, one class only",
    "shift": "classes that are much more common on dev than in train, or less",
    "leak": "examples to score on that are trained or chosen on",
    "no-answer": "rows without anything to learn from",
    "frozen": "a backbone that would be trained, or a prompt that no gradient reaches",
    "not-finite": "loss, gradient or tensors that are no finite numbers",
    "init-scale": "a start far larger or smaller than the word vectors",
    "will-explode": "one step that is several times an embedding",
    "cannot-move": "rates that sum up to less than the prompt's own size",
    "overflow": "texts that do not fit and are cut",
    "no-signal": "neither the prompt nor a linear probe does better than the majority",
    "majority": "nearly always the same answer",
    "did-not-move": "a trained prompt that is where it began",
    "moved-off": "a trained prompt that is far larger than any word vector",
    "not-converging": "a loss that hardly falls",
    "spike": "a loss that jumped",
    "unstable": "dev losses that go up and down",
    "gap": "a loss on dev that rises while the loss on train falls",
    "few-examples": "few examples, learnt by heart",
    "format": "answers that depend on how a text is written down",
    "seeds": "runs that differ in the seed only and in the score a lot",
    "baseline-wins": "something cheaper that is better than the prompt",
    "context-share": "a prompt that takes much of the context",
    "small-eval": "too few examples to score on",
    "versions": "other versions of libraries than the prompt was made with",
    "padding": "how padding is done",
}
"""Every rule and what it is about, causes before symptoms: the first finding is the first thing to mend."""

CODES = {
    "leak": ("SP-E131",),
    "labels": ("SP-E120", "SP-E122", "SP-E124", "SP-E125", "SP-E127", "SP-E128", "SP-E130", "SP-E209", "SP-E215"),
    "overflow": ("SP-E104", "SP-E134", "SP-E222"),
    "small-eval": ("SP-E132",),
    "wrong-base": ("SP-E320", "SP-E512"),
    "no-effect": ("SP-E321", "SP-E322", "SP-E323"),
    "not-finite": ("SP-E305", "SP-E520"),
    "frozen": ("SP-E521",),
    "damaged": ("SP-E301", "SP-E302", "SP-E303", "SP-E304", "SP-E306", "SP-E309", "SP-E310", "SP-E311"),
}
MENDING = {"SP-E104": ("task.max_tokens=null",)}  # settings, where there is more to say than the error does
RULE_OF = {code: rule for rule, codes in CODES.items() for code in codes}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing (`severity="info"`)."""

    rule: str  # one of RULES
    severity: Severity
    seen: str  # with the number
    threshold: str
    do: str = ""  # a command, where no settings mend it
    settings: tuple[str, ...] = ()  # `section.key=value`, to train with
    remedies: tuple[tuple[str, ...], ...] = ()  # settings to try after `settings`, in order

    def command(self, recipe: str = "RECIPE") -> str:
        """The command that mends it."""
        if not self.settings:
            return self.do.replace("RECIPE", shlex.quote(recipe))
        return shlex.join(["softprompt", "train", recipe, *(part for s in self.settings for part in ("--set", s))])

    def arms(self) -> list[tuple[str, ...]]:
        """Settings to try, the first advice first."""
        return [arm for arm in (self.settings, *self.remedies) if arm]

    def as_dict(self, recipe: str = "RECIPE") -> dict[str, Any]:
        """The finding as plain values."""
        facts = {"rule": self.rule, "severity": self.severity, "seen": self.seen, "threshold": self.threshold}
        return facts | {"command": self.command(recipe)}

    def __str__(self) -> str:
        return f"{self.rule}: {self.seen} (threshold: {self.threshold}); do: {self.command()}"


def of_error(error: SoftpromptError) -> Finding:
    """The finding that an error of the package amounts to: what is refused there is not checked twice."""
    where = f"{error.where}: " if error.where else ""
    rule = RULE_OF.get(error.code, "refused")
    seen, settings = f"{where}{error.found} ({error.code})", MENDING.get(error.code, ())
    return Finding(rule, "error", seen, error.expected, do=error.do, settings=settings)


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """Findings, the first to mend first; of one rule and severity, the first that was found."""
    order = list(RULES)
    first: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        first.setdefault((finding.rule, finding.severity), finding)
    return sorted(first.values(), key=lambda f: (SEVERITIES.index(f.severity), order.index(f.rule)))


def alarming(findings: Iterable[Finding]) -> list[Finding]:
    """Findings that are more than worth knowing."""
    return [finding for finding in findings if finding.severity != "info"]


def milder(finding: Finding) -> Finding:
    """The same finding as a warning."""
    return replace(finding, severity="warning")

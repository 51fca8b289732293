"""Who a short prompt can learn from: a prompt, a text with demonstrations, a LoRA, a tuned model, or one tuned here.

Whoever it is answers the same questions with the same words; `distill` asks once and keeps the answers.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from softprompt.backbones import Backbone, load_backbone
from softprompt.core import IGNORE, Example
from softprompt.errors import DataError, SoftpromptError, TrainingError
from softprompt.files import read_regular
from softprompt.heads import LanguageModel
from softprompt.pieces import parse
from softprompt.plan import Plan
from softprompt.prompt import Prompt, without_prompt
from softprompt.readout import make_head
from softprompt.run import Listener
from softprompt.stages import fingerprint
from softprompt.template import Template, tokenizer_hash
from softprompt.transfer.sources import Source
from softprompt.transfer.taught import scored_at_once

LONGEST = 1 << 20  # bytes of a text prompt
PARTS = ("*.json", "*.safetensors", "*.bin")  # of a model folder, what makes it what it is
TITLES: dict[str, str] = {"full": "the fully tuned model", "lora": "a LoRA of rank 8"}


@dataclass(frozen=True)
class Teacher:
    """Something that can answer the questions of a task."""

    name: str  # of its file or folder
    title: str  # in a table
    identity: str  # what it is, so that no run goes on with another
    ask: Callable[[Plan, Prompt, Listener], Prompt]  # from a plan and its untrained student to what answers
    source: Source | None = None  # of a prompt: its vectors are where the student begins
    words: str = ""  # of a text: where the student begins


def of_prompt(source: Source, home: Callable[[], Backbone] | None = None) -> Teacher:
    """A trained prompt; `home` opens its backbone where that is not the student's, a LoRA under it for example."""

    def ask(plan: Plan, student: Prompt, listen: Listener) -> Prompt:
        own = source.artifact.card.backbone.fingerprint == student.backbone.fingerprint
        return source.artifact.bind(student.backbone if own or home is None else home())

    title = f"{source.artifact.card.method.length} vectors"
    return Teacher(source.name, title, fingerprint(source.artifact), ask, source)


def of_text(path: str | Path) -> Teacher:
    """A text prompt: a template without vectors, with an instruction and demonstrations written out.

    Raises `DataError` SP-E105 for a file that is not UTF-8, and, when it is asked, `SoftpromptError` SP-E851 for a text
    with vectors or without a place for the answer.
    """
    try:
        text = read_regular(Path(path), LONGEST).decode().rstrip()
    except UnicodeDecodeError as error:
        raise DataError("SP-E105", "a text prompt that is not UTF-8", "UTF-8", "convert it", where=str(path)) from error

    def ask(plan: Plan, student: Prompt, listen: Listener) -> Prompt:
        task, backbone = plan.recipe.task, student.backbone
        kinds = [piece.kind for piece in parse(text, 1)]
        if "soft" in kinds or "mask" not in kinds:
            found = "{soft} in a text prompt" if "soft" in kinds else "a text prompt without {mask}"
            do = "write it as in: Good or bad?  a fine film  good  {text}  {mask}"
            raise SoftpromptError(
                "SP-E851", found, "words, columns such as {text}, and one {mask}", do, where=str(path)
            )
        template = Template(text, backbone, length=1, cut=task.truncate)
        head = make_head(plan, backbone, template)
        return Prompt(backbone, without_prompt(student).method, head, template, student.task).eval()

    said = "".join(piece.value for piece in parse(text, 1) if piece.kind == "text").strip()
    return Teacher(Path(path).stem, "a text", hashlib.sha256(text.encode()).hexdigest(), ask, words=said)


def of_adapter(folder: str | Path) -> Teacher:
    """A LoRA of PEFT over the student's model, asked without a prompt."""

    def ask(plan: Plan, student: Prompt, listen: Listener) -> Prompt:
        section, backbone = plan.recipe.backbone, student.backbone
        kind, place, revision = number_type(backbone), str(backbone.device), section.revision
        tuned = load_backbone(section.name, adapter=folder, dtype=kind, device=place, revision=revision)
        return over(tuned, student, folder)

    return Teacher(Path(folder).resolve().name, "a LoRA", digest(folder), ask)


def of_model(folder: str | Path) -> Teacher:
    """A tuned model with the student's tokenizer, in a folder as transformers writes it, asked without a prompt."""

    def ask(plan: Plan, student: Prompt, listen: Listener) -> Prompt:
        backbone = student.backbone
        return over(load_backbone(folder, dtype=number_type(backbone), device=str(backbone.device)), student, folder)

    return Teacher(Path(folder).resolve().name, "a tuned model", digest(folder), ask)


def tuned_here(kind: Literal["full", "lora"]) -> Teacher:
    """The model itself, tuned on the same data first, whole or by a LoRA: dev chooses the rate and the state."""

    def ask(plan: Plan, student: Prompt, listen: Listener) -> Prompt:
        from softprompt.comparators import RATES, check, trained  # which takes its steps from training

        check(plan, [kind])
        best: tuple[tuple[float, ...], Prompt] | None = None
        for number, rate in enumerate(RATES[kind], 1):
            text = f"tuning the teacher, {TITLES[kind]}: rate {rate:g}, {number} of {len(RATES[kind])}"
            listen({"event": "note", "text": text})
            try:
                key, _, prompt = trained(plan, student.backbone, kind, rate)
            except TrainingError as error:
                if error.code != "SP-E520":
                    raise
                failure = error
                continue
            if best is None or key > best[0]:
                best = key, prompt
        if best is None:
            raise failure
        return best[1].eval()

    return Teacher(kind, TITLES[kind], f"{kind}, tuned on these data", ask)


def over(backbone: Backbone, student: Prompt, folder: str | Path) -> Prompt:
    """The student's question to another model; raises `SoftpromptError` SP-E850 for one that reads other tokens."""
    if tokenizer_hash(backbone.tokenizer) != tokenizer_hash(student.backbone.tokenizer):
        found, do = "a teacher with another tokenizer", "take one that was tuned from the student's own backbone"
        raise SoftpromptError("SP-E850", found, f"that of {student.backbone.name}", do, where=str(folder))
    bare = without_prompt(student)
    return Prompt(backbone, bare.method, bare.head, bare.template, bare.task).eval()


def reads_words(student: Prompt) -> None:
    """Raise `SoftpromptError` SP-E624 for a student with a head that has to be trained."""
    if not isinstance(student.head, LanguageModel):
        found, do = f"a trained {student.head.name} head", "set task.head=verbalizer"
        raise SoftpromptError("SP-E624", found, "a head that reads words", do)


def check(teacher: Prompt, student: Prompt, who: Teacher, plan: Plan) -> None:
    """Raise `SoftpromptError` SP-E624 where the teacher's answers are no lesson for the student.

    Chances of classes can be learned whatever the words for them are; those of tokens need the same tokens, and a word
    may be other tokens behind a line break than behind a space.
    """
    same = (teacher.head.name, teacher.task.labels) == (student.head.name, student.task.labels)
    by_token = same and not (scored_at_once(teacher) and scored_at_once(student))
    if by_token:
        tokens = [tokenizer_hash(one.backbone.tokenizer) for one in (teacher, student)]
        same = tokens[0] == tokens[1]
    if same and by_token and any(answer(teacher, one) != answer(student, one) for one in [*plan.train, *plan.dev]):
        found, do = f"answers of other tokens in {who.name}", "end its text or template as that of the student ends"
        raise SoftpromptError("SP-E624", found, f"those behind {plan.template[-40:]!r}", do)
    if not same:
        found = f"a {teacher.head.name} for {', '.join(teacher.task.labels)[:80] or teacher.task.kind} in {who.name}"
        raise SoftpromptError("SP-E624", found, "a teacher of the same task", "give the data that it was trained for")


def answer(prompt: Prompt, example: Example) -> list[int]:
    """The tokens of an example's answer, as the prompt writes it."""
    row = prompt.row(example)
    side = row if row.decoder is None else row.decoder
    return [label for label in side.labels if label != IGNORE]


def number_type(backbone: Backbone) -> str:
    """The type of its weights, as `load_backbone` takes it."""
    return str(backbone.dtype).removeprefix("torch.")


def digest(folder: str | Path) -> str:
    """SHA-256 over the files that make a model folder what it is."""
    made = hashlib.sha256()
    for path in sorted({path for pattern in PARTS for path in Path(folder).glob(pattern)}):
        with path.open("rb") as file:
            made.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return made.hexdigest()


__all__ = ["Teacher", "check", "of_adapter", "of_model", "of_prompt", "of_text", "reads_words", "tuned_here"]

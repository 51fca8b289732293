"""A trained prompt as one file: tensors, a card that says what they are, and a SHA-256 over every byte.

Loading never runs code and never guesses: the file is checked first, then the backbone, then the answers.
"""

import platform
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from softprompt import __version__, canary, container
from softprompt.backbones import Backbone
from softprompt.canary import Canary
from softprompt.core import Spec, Start
from softprompt.data import TaskKind
from softprompt.errors import ArtifactError, RecipeError
from softprompt.heads import Classifier, Head, LanguageModel, Regressor, Tagger, Verbalizer
from softprompt.images import ImageTemplate
from softprompt.methods import check_options, find, name_of
from softprompt.prompt import Prompt, Task
from softprompt.recipe import bare_name
from softprompt.template import Template, Truncate, tokenizer_hash


class Part(BaseModel):
    """A part of a card; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MethodCard(Part):
    """What the tensors are."""

    name: str
    length: int = Field(ge=1, le=10_000)
    options: dict[str, Any] = {}
    trained_as: str = ""  # the method before its reparameterisation was folded away


class HeadCard(Part):
    """How answers are read."""

    name: str
    options: dict[str, Any] = {}


class TemplateCard(Part):
    """How text is written around the prompt."""

    text: str
    hash: str
    limit: int | None = Field(None, ge=1)
    cut: Truncate = "tail"


class BackboneCard(Part):
    """The model that the prompt was trained for."""

    name: str
    family: str
    kind: str
    hidden: int
    layers: int
    dtype: str
    fingerprint: str
    tokenizer: str  # SHA-256


class TaskCard(Part):
    """What is asked."""

    kind: TaskKind
    labels: tuple[str, ...] = ()
    new_tokens: int = 64


class Card(Part):
    """Everything about a prompt but its tensors."""

    method: MethodCard
    head: HeadCard
    template: TemplateCard
    backbone: BackboneCard
    task: TaskCard
    report: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    parents: tuple[str, ...] = ()
    canaries: list[Canary] = []
    versions: dict[str, str] = {}


@dataclass(frozen=True)
class Artifact:
    """A prompt file in memory: method tensors under `method.`, head tensors under `head.`."""

    tensors: dict[str, Tensor]
    card: Card
    where: str = ""

    @classmethod
    def of(
        cls, prompt: Prompt, recipe: dict[str, Any], report: dict[str, Any], parents: tuple[str, ...] = ()
    ) -> "Artifact":
        """The artifact of a trained prompt: reparameterisation folded away, canaries recorded."""
        with torch.no_grad():  # as in use: with gradients, an LSTM rounds in another way
            method = prompt.method.fold()
        folded = Prompt(prompt.backbone, method, prompt.head, prompt.template, prompt.task).eval()
        backbone, template = prompt.backbone, prompt.template
        name, trained_as = name_of(method), name_of(prompt.method)
        vision = backbone.spec.kind == "vision"
        card = Card(
            method=MethodCard(name=name, length=method.length, options=method.options(), trained_as=trained_as),
            head=HeadCard(name=prompt.head.name, options=prompt.head.options()),
            template=TemplateCard(text=template.text, hash=template.hash)
            if vision
            else TemplateCard(text=template.text, hash=template.hash, limit=template.limit, cut=template.cut),
            backbone=describe(backbone),
            task=TaskCard(**vars(prompt.task)),
            report=report,
            recipe=recipe,
            parents=parents,
            canaries=canary.record(folded),
            versions={
                "softprompt": __version__,
                "torch": version("torch"),
                "transformers": version("transformers"),
                "python": platform.python_version(),
            },
        )
        return cls({name: value.detach().cpu().clone() for name, value in folded.state_dict().items()}, card)

    def save(self, path: str | Path) -> None:
        """Write the file so that it is whole or absent; raises `ArtifactError` where it cannot be written."""
        container.write_file(Path(path), self.tensors, self.card.model_dump_json())

    @classmethod
    def load(cls, path: str | Path) -> "Artifact":
        """Read a file; raises `ArtifactError` for anything but an intact artifact of a version known here."""
        tensors, text = container.read_file(Path(path))
        try:
            card = Card.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise ArtifactError(
                "SP-E310",
                f"card with {key}: {first['msg']}",
                "a card of this version",
                "update softprompt",
                where=str(path),
            ) from error
        return cls(tensors, card, str(path))

    def method_tensors(self) -> dict[str, Tensor]:
        """The tensors of the method alone, by their names in the method."""
        return {name.removeprefix("method."): t for name, t in self.tensors.items() if name.startswith("method.")}

    @property
    def adapter(self) -> str | None:
        """The name of the LoRA adapter in the backbone that the prompt was trained on, where its card says one."""
        section = self.card.recipe.get("backbone")
        name = section.get("adapter") if isinstance(section, dict) else None
        return name if isinstance(name, str) else None

    def check_backbone(self, backbone: Backbone) -> None:
        """Raise `ArtifactError` where this is not the model that the prompt was trained for."""
        card, now = self.card.backbone, describe(backbone)
        for what, mine, theirs in (
            ("family", card.family, now.family),
            ("hidden size", card.hidden, now.hidden),
            ("layers", card.layers, now.layers),
            ("weights", card.fingerprint, now.fingerprint),
            ("tokenizer", card.tokenizer, now.tokenizer),
        ):
            if mine != theirs:
                found = f"{what} {short(theirs)} in {backbone.name or 'this backbone'}"
                expected, do = f"{short(mine)}: the prompt was trained on {card.name}", "load that backbone"
                if adapter := self.adapter:
                    expected += f" with the LoRA adapter {adapter!r} merged in"
                    do += f" with adapter=FOLDER, the {adapter!r} folder that belongs to the prompt"
                do += ", or train a prompt for this one"
                raise ArtifactError("SP-E320", found, expected, do, where=self.where)

    def bind(self, backbone: Backbone) -> Prompt:
        """The prompt in use on a backbone.

        Raises `ArtifactError` for another backbone, tokenizer or template, for tensors that do not fit, and where the
        canaries answer differently from when the prompt was made.
        """
        self.check_backbone(backbone)
        card = self.card
        try:
            with torch.random.fork_rng(devices=[]):  # weights begin at random before they are loaded
                prompt = self.assemble(backbone)
            prompt.load_state_dict(self.tensors)
            check_answers(prompt)
        except (LookupError, RuntimeError, TypeError, ValueError, RecipeError) as error:
            raise ArtifactError(
                "SP-E311",
                f"{error}"[:200],
                "tensors and options that fit the card",
                "get the file again",
                where=self.where,
            ) from error
        if prompt.template.hash != card.template.hash:
            raise ArtifactError(
                "SP-E323",
                "another way to write text around the prompt",
                "the template and tokenizer of the card",
                "use the versions of its card (`softprompt show`)",
                where=self.where,
            )
        prompt.eval()
        canary.check(prompt, card.canaries, self.where)
        return prompt

    def assemble(self, backbone: Backbone) -> Prompt:
        """The prompt that the card describes, with weights still to be loaded."""
        card = self.card
        head = make_head(card.head, backbone.spec, self.where)
        spec = replace(backbone.spec, decoder_layers=0) if head.reads == "hidden" else backbone.spec
        kind = find(card.method.name)
        check_options(kind, card.method.options)
        method = kind(spec, Start(torch.zeros(card.method.length, spec.hidden)), **card.method.options)
        template = self.template(backbone, prefix=0 if kind.stands_in_text(card.method.options) else card.method.length)
        return Prompt(backbone, method, head, template, Task(**card.task.model_dump()))

    def template(self, backbone: Backbone, prefix: int) -> Any:
        """The template of the card, for this backbone."""
        card = self.card.template
        length = self.card.method.length
        if backbone.spec.kind == "vision":
            return ImageTemplate(card.text, backbone, length=length)
        return Template(card.text, backbone, length=length, prefix=prefix, limit=card.limit, cut=card.cut)


def describe(backbone: Backbone) -> BackboneCard:
    """What a card says of a backbone. The name is that of its folder: a path is nobody's business."""
    spec = backbone.spec
    processor = backbone.tokenizer
    tokenizer = "" if processor is None or spec.kind == "vision" else tokenizer_hash(processor)
    return BackboneCard(
        name=bare_name(backbone.name),
        family=backbone.model.config.model_type,
        kind=spec.kind,
        hidden=spec.hidden,
        layers=spec.layers,
        dtype=str(backbone.dtype).removeprefix("torch."),
        fingerprint=backbone.fingerprint,
        tokenizer=tokenizer,
    )


def make_head(card: HeadCard, spec: Spec, where: str) -> Head:
    """The head that a card describes, with weights still to be loaded."""
    if card.name == "lm":
        return LanguageModel()
    if card.name == "verbalizer":
        return Verbalizer(**card.options)
    kinds: dict[str, Any] = {kind.name: kind for kind in (Classifier, Regressor, Tagger)}
    if card.name not in kinds:
        expected = f"one of {', '.join(kinds)}"
        raise ArtifactError("SP-E310", f"head {card.name!r}", expected, "update softprompt", where=where)
    head: Head = kinds[card.name](spec.states, **card.options)
    return head


def check_answers(prompt: Prompt) -> None:
    """Raise `ValueError` where the head has other classes than the task, or words that the backbone does not know."""
    head, classes = prompt.head, len(prompt.task.labels)
    given = {"classes": classes, "tags": classes} | head.options()
    answers = len(head.words) if isinstance(head, Verbalizer) else classes
    if {given["classes"], given["tags"], answers} != {classes}:
        raise ValueError(f"a {head.name} for another number of classes than {classes}")
    if isinstance(head, Verbalizer):
        rows = prompt.backbone.model.get_input_embeddings().weight.shape[0]
        if not all(0 <= i < rows for word in [*head.every, head.wording.rows] for i in word):
            raise ValueError(f"class words outside the {rows} tokens of the backbone")


def short(value: object) -> str:
    """The first characters of a hash, or the whole of anything short."""
    text = str(value)
    return text if len(text) < 40 else text[:12]

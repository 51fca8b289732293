"""Which token ids may be a prompt, and how they stand in a row: as text, so that what is shown is what is evaluated.

A candidate is kept only where its ids survive decode and encode, alone and in every row that it is scored on: peers
report strings that their own tokenizers read as other ids.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import torch
from torch import Tensor

from softprompt.core import Example, Row
from softprompt.errors import RecipeError
from softprompt.heads import Verbalizer
from softprompt.pieces import Piece
from softprompt.prompt import Bare, Prompt
from softprompt.template import Template

Ids = tuple[int, ...]
SHIFT = 2  # tokens by which text beside a prompt may be tokenised otherwise than beside slots
KEPT = 4096  # rows that are remembered


class Candidates:
    """The space that is searched. `prompt` is an untrained prompt whose template has its slots in one place."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt, self.tokenizer = prompt, prompt.backbone.tokenizer
        added = self.tokenizer.added_tokens_decoder.items()
        self.special = set(self.tokenizer.all_special_ids) | {i for i, token in added if token.special}
        self.places: dict[int, int] = {}
        self.kept: dict[tuple[Ids, int], tuple[Example, Row]] = {}
        self.last: tuple[Ids, Prompt] | None = None
        self.allowed = self.ordinary()

    def ordinary(self) -> list[int]:
        """Ids of tokens that can be written: no specials, nothing that is not printed, no class word, all stable.

        A token is stable if it survives alone and beside itself. Class words are left out as in AutoPrompt: a prompt
        that names an answer moves all answers to it. Raises `RecipeError` where no token is left.
        """
        tokenizer, head = self.tokenizer, self.prompt.head
        rows = min(self.prompt.backbone.model.get_input_embeddings().weight.shape[0], len(tokenizer))
        taken = {i for word in head.every for i in word} if isinstance(head, Verbalizer) else set()
        left = [(i,) for i in range(rows) if i not in taken]
        for times in (1, 2):
            left = [ids[:1] for ids, ok in zip(left, self.stable([ids * times for ids in left]), strict=True) if ok]
        if not left:
            raise none_survives(self.prompt.backbone.name)
        return [ids[0] for ids in left]

    def stable(self, many: Sequence[Ids]) -> list[bool]:
        """For each, whether they are no specials, and their text is printable, not blank, and read as the same ids."""
        texts = [self.text(ids) for ids in many]
        if not texts:
            return []
        read = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return [
            bool(text.strip()) and text.isprintable() and tuple(back) == ids and self.special.isdisjoint(ids)
            for text, back, ids in zip(texts, read, many, strict=True)
        ]

    def text(self, ids: Ids) -> str:
        """The prompt as a string."""
        text: str = self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
        return text

    def read(self, text: str) -> Ids:
        """The ids of a string, as the tokenizer reads it alone."""
        return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def survivors(self, many: Sequence[Ids], examples: Sequence[Example]) -> list[Ids]:
        """Those, each once, that survive alone and stand in the row of every example."""
        distinct = list(dict.fromkeys(ids for ids in many if ids))
        kept = [ids for ids, ok in zip(distinct, self.stable(distinct), strict=True) if ok]
        return [ids for ids in kept if self.stands(ids, examples)]

    def stands(self, ids: Ids, examples: Sequence[Example]) -> bool:
        """Whether the row of every example holds these ids where the prompt is written."""
        return all(self.place(self.row(ids, example).ids, ids, example) >= 0 for example in examples)

    def row(self, ids: Ids, example: Example) -> Row:
        """The row of an example with these ids as text in it: made once for the filter and the scores of a step."""
        key = (ids, id(example))
        if key not in self.kept:
            if len(self.kept) >= KEPT:
                self.kept.clear()
            self.kept[key] = (example, self.worded(ids).row(example))  # a reference keeps the id from another example
        return self.kept[key][1]

    def worded(self, ids: Ids) -> Prompt:
        """The backbone asked with these ids as text in the place of the slots; no ids: without a prompt."""
        if self.last is None or self.last[0] != ids:
            made = Prompt(self.prompt.backbone, Bare(), self.prompt.head, self.template(ids), self.prompt.task)
            self.last = (ids, made)
        return self.last[1]

    def template(self, ids: Ids) -> Template:
        """The template with the text of ids in the place of its slots."""
        made = self.prompt.template.without_soft()
        if not ids:
            return made
        written = Piece("text", self.text(ids))
        made = copy(made)
        made.pieces = [written if piece.kind == "soft" else piece for piece in self.prompt.template.pieces]
        return made

    def place(self, row: Sequence[int], ids: Ids, example: Example) -> int:
        """Where ids begin in a row, near where the slots begin; -1 where they do not stand there."""
        if id(example) not in self.places:
            slots = self.prompt.row(example, labelled=False).slots
            self.places[id(example)] = next(i for i, slot in enumerate(slots) if slot >= 0)
        near = self.places[id(example)]
        found = [near + step for step in sorted(range(-SHIFT, SHIFT + 1), key=abs)]
        return next((i for i in found if i >= 0 and tuple(row[i : i + len(ids)]) == ids), -1)

    def slotted(self, row: Row, ids: Ids, example: Example) -> Row:
        """The row with slots in the places of the prompt's tokens, which may then be any vectors."""
        begin = self.place(row.ids, ids, example)
        if begin < 0:
            raise ValueError(f"{self.text(ids)!r} is not what the row holds")
        slots = list(row.slots)
        slots[begin : begin + len(ids)] = range(len(ids))
        return replace(row, slots=slots)

    def exact(self, ids: Ids, examples: Sequence[Example]) -> bool:
        """Whether slots filled with these ids make the very rows that the text makes: then vectors can stand for it."""
        soft, asked = copy(self.prompt.template), self.worded(ids)
        count = len(ids)
        soft.pieces = [Piece("soft", count=count) if piece.kind == "soft" else piece for piece in soft.pieces]
        soft.vectors = count
        slotted = Prompt(asked.backbone, Bare(), asked.head, soft, asked.task)
        for example in examples:
            row = slotted.row(example)
            filled = [i if slot < 0 else ids[slot] for i, slot in zip(row.ids, row.slots, strict=True)]
            if filled != asked.row(example).ids:
                return False
        return True

    def nearest(self, vectors: Tensor, table: Tensor) -> Ids:
        """For each vector [P, H], the allowed token whose embedding in `table` [V, H] has the smallest angle to it."""
        allowed = torch.tensor(self.allowed, device=table.device)
        rows = torch.nn.functional.normalize(table[allowed].float(), dim=1)
        best = (torch.nn.functional.normalize(vectors.float().to(rows.device), dim=1) @ rows.T).argmax(1)
        return tuple(allowed[best].tolist())


def none_survives(name: str) -> RecipeError:
    """No text that the tokenizer reads back as the ids it was made of."""
    found = f"no prompt whose ids survive decode and encode with the tokenizer of {name or 'this backbone'}"
    return RecipeError("SP-E631", found, "some that do", "put a space or a line break beside {soft} in task.template")

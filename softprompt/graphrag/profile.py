"""What is found out about a corpus before prompts are written: its subject, language, types, and who should read it."""

from dataclasses import dataclass, replace

from softprompt.graphrag import texts
from softprompt.graphrag.corpus import Chunk, excerpt
from softprompt.graphrag.forms import Draft
from softprompt.graphrag.speaker import Meter, line, passage, type_list

SHOWN = 10  # chunks that the model sees the beginning of
TOKENS = 150  # of each
QUESTIONS = 6  # asked where nothing is given


@dataclass(frozen=True)
class Given:
    """What the user knows; the rest is asked for."""

    domain: str = ""
    language: str = ""
    persona: str = ""
    types: tuple[str, ...] = ()
    cap: int = 10  # types at most

    @property
    def questions(self) -> int:
        """How many are left to ask."""
        return QUESTIONS - sum(map(bool, (self.domain, self.language, self.persona, self.types)))


def profile(meter: Meter, chunks: list[Chunk], given: Given, settings_types: tuple[str, ...]) -> tuple[Draft, str]:
    """A draft that fits a corpus, with our default example, and the corpus' subject.

    Types that are not those of the settings are pinned: written into the prompt, because the settings do not know them.
    Raises `SoftpromptError` SP-E794 where an answer cannot be used.
    """
    shown = "\n\n---\n\n".join(excerpt(chunk.text, TOKENS) for chunk in chunks[:SHOWN])
    domain = given.domain or meter.want(texts.ASK_DOMAIN, shown, line, "domain")
    language = given.language or meter.want(texts.ASK_LANGUAGE, shown, line, "language")
    types = given.types or meter.want(texts.ASK_TYPES.format(cap=given.cap), shown, type_list, "types")[: given.cap]
    persona = given.persona or meter.want(texts.ASK_PERSONA.format(domain=domain), "", passage, "persona")
    role = meter.want(texts.ASK_ROLE.format(domain=domain), "", line, "role")
    rating = meter.want(texts.ASK_RATING.format(domain=domain), "", passage, "rating")
    draft = Draft(types=types, pinned=same(types) != same(settings_types))
    return replace(draft, persona=persona, language=language, role=role, rating=rating), domain


def same(types: tuple[str, ...]) -> set[str]:
    """Types without their case."""
    return {one.casefold() for one in types}

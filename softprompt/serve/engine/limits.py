"""How much may be under way at once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How much may be under way at once."""

    rows: int = 32  # that write, or that read a long text
    waiting: int = 256  # requests
    chunk: int = 256  # tokens read in a step beside rows that write; four times as many where more short texts wait
    store_bytes: int = 1 << 30  # of compiled prompts

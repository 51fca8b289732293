"""Prompts under names, with versions and aliases: content-addressed files, and an index in SQLite."""

from softprompt.store.names import Reference, is_reference, parse
from softprompt.store.rows import Entry
from softprompt.store.store import Published, Store

__all__ = ["Entry", "Published", "Reference", "Store", "is_reference", "parse"]

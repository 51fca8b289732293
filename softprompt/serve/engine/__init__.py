"""The engine: rows of all tasks in one step, prompts compiled once, and what is served swapped as a whole."""

from softprompt.serve.engine.engine import PromptEngine

__all__ = ["PromptEngine"]

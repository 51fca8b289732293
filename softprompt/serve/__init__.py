"""Serving: one backbone, many prompts, one process (docs/serving.md)."""

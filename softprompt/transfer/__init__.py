"""Prompts that begin from other prompts: which source helps, whether it did, and what a long prompt leaves a short one.

Every answer stands beside a control that was trained on the same budget without a source.
"""

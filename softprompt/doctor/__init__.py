"""The doctor: what is wrong with a recipe, a run or a prompt, with the number, the threshold and the command."""

from softprompt.doctor.findings import RULES, Finding, alarming, of_error, ranked

__all__ = ["RULES", "Finding", "alarming", "of_error", "ranked"]

"""Methods compared under one protocol, with equal budgets, and a report of one file."""

from softprompt.lab.compare import Compared, compare
from softprompt.lab.protocol import Protocol
from softprompt.lab.report import write

__all__ = ["Compared", "Protocol", "compare", "write"]

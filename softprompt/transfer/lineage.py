"""Which prompt was made from which, as the store knows it."""

from dataclasses import dataclass, field
from typing import Any

from softprompt.store import Entry, Store
from softprompt.store.facts import RELATIONS

CARD = RELATIONS[0]  # what a parent is that only the card names


@dataclass
class Node:
    """A version in a store, and what was made from it."""

    entry: Entry
    relation: str = ""  # to the parent that it stands under
    children: list["Node"] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The node as plain values."""
        facts = {"reference": self.entry.reference, "relation": self.relation, "sha256": self.entry.sha256}
        return facts | {"children": [child.as_dict() for child in self.children]}


def lineage(store: Store) -> list[Node]:
    """The trees of a store: roots are versions of which no parent is in it.

    A version with several parents stands under each. One content under several names stands once, under the first.
    """
    nodes: dict[str, Node] = {}
    for entry in store.list(every=True):
        nodes.setdefault(entry.sha256, Node(entry))
    roots = []
    for sha256, node in nodes.items():
        parents: dict[str, str] = {}  # relation by parent
        for one in store.family(node.entry.reference)[0]:
            other = one.sha256 in nodes and one.sha256 != sha256
            if other and parents.get(one.sha256, CARD) == CARD:  # a publisher knows more than a card
                parents[one.sha256] = one.relation
        for parent, relation in parents.items():
            nodes[parent].children.append(Node(node.entry, relation, node.children))
        if not parents:
            roots.append(node)
    return roots


def drawn(nodes: list[Node], indent: str = "") -> list[str]:
    """Lines of text: every node under its parent, with its deciding metric."""
    lines = []
    for i, node in enumerate(nodes):
        last = i == len(nodes) - 1
        branch = "" if not (indent or node.relation) else "└─ " if last else "├─ "
        value = "" if node.entry.value is None else f"  {node.entry.metric} {node.entry.value:.3f}"
        relation = f"  ({node.relation})" if node.relation else ""
        lines.append(f"{indent}{branch}{node.entry.reference}{relation}{value}")
        deeper = indent + ("   " if last or not branch else "│  ")
        lines += drawn(node.children, deeper if branch else indent)
    return lines


__all__ = ["Node", "drawn", "lineage"]

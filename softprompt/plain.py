"""Plain values in YAML that says each thing once, and back."""

from collections import Counter
from typing import Any

import yaml

LIMIT = 1 << 18  # characters
BREAKS = frozenset("\x85\u2028\u2029")  # which PyYAML takes for ends of lines, and loses


class Dumper(yaml.SafeDumper):
    """Writes text with unusual ends of lines between double quotes, where they are escaped."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """A text as a scalar node."""
        quoted = '"' if BREAKS & set(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=quoted)


Dumper.add_representer(str, Dumper.represent_str)


def write_yaml(values: Any) -> str:
    """The YAML text of plain values; `read_yaml` gives them back."""
    text: str = yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True)
    return text


def read_yaml(text: str) -> Any:
    """Plain values from a YAML text.

    Raises `yaml.YAMLError` also for repeated keys, of which YAML would keep the last, and for anchors, by which a few
    lines become gigabytes; `ValueError` for texts that are too long and for impossible dates and numbers.
    """
    if len(text) > LIMIT:
        raise ValueError(f"more than {LIMIT:,} characters")
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    refuse_repeats(node, set())
    return None if node is None else yaml.SafeLoader("").construct_document(node)


def refuse_repeats(node: Any, seen: set[int]) -> None:
    """Raise `yaml.YAMLError` where a mapping has a key twice, and where a node is used twice (`seen` by its id)."""
    if id(node) in seen:
        raise yaml.YAMLError(f"an anchor that is used again (line {node.start_mark.line + 1}); write the value out")
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, count in keys.most_common(1):
            if count > 1:
                raise yaml.YAMLError(f"key {key!r} {count} times in one section (from line {node.start_mark.line + 1})")
    if isinstance(node, yaml.CollectionNode):
        for item in node.value:
            for part in item if isinstance(item, tuple) else (item,):
                refuse_repeats(part, seen)

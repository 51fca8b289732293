"""The tables of docs/serving-engine.md, from what benchmarks/serve.py has measured."""

from typing import Any


def page(facts: dict[str, Any]) -> str:
    """Tables in Markdown."""
    return "\n\n".join([ratios(facts), around(facts), commands(facts)])


def ratios(facts: dict[str, Any]) -> str:
    """Scoring and writing beside no prompt and PEFT."""
    lines = ["| | size | m | CPU s | no prompt / engine | PEFT / engine | 1 task / 32 tasks |", f"|{' --- |' * 7}"]
    for name, key in (("scoring", "engine"), ("decode", "engine, 32 tasks")):
        for row in facts[name]:
            cells = [name, row["size"], row["m"], row["cpu seconds"][key]]
            cells += [spread(row[ratio]) for ratio in ("no prompt / engine", "peft / engine")]
            cells.append(spread(row["1 task / 32 tasks"]) if name == "decode" else "")
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def spread(ratio: dict[str, float]) -> str:
    """A median and its range."""
    if ratio["lowest"] == ratio["highest"]:
        return f"**{ratio['median']:.2f}**"
    return f"**{ratio['median']:.2f}** ({ratio['lowest']:.2f}-{ratio['highest']:.2f})"


def around(facts: dict[str, Any]) -> str:
    """Many prompts, and HTTP."""
    lines = ["| | size | m | few, or engine | many, or HTTP |", f"|{' --- |' * 5}"]
    for row in facts.get("many", []):
        for what in ("prompts", "MiB that the process grew by", "MiB of compiled prompts", "cpu ms to the first token"):
            lines.append(f"| {what} | {row['size']} | {row['m']} | {row[what][0]} | {row[what][1]} |")
    for row in facts.get("http", []):
        cells = [row["size"], row["m"], *(row["cpu ms of a request"][way] for way in ("engine", "http"))]
        lines.append(f"| CPU ms of a request, client included | {' | '.join(map(str, cells))} |")
        shares = ("cpu ms of the client alone", "cpu ms that HTTP adds on the server")
        if all(share in row for share in shares):  # older figures have them as one
            lines += [f"| {share} | {row['size']} | {row['m']} |  | {row[share]} |" for share in shares]
    return "\n".join(lines)


def commands(facts: dict[str, Any]) -> str:
    """How the figures were made."""
    made = [row["made by"] for name in ("scoring", "decode", "many", "http") for row in facts.get(name, [])]
    each = ", ".join(dict.fromkeys(f"`{one['command']}`" for one in made))
    versions = ", ".join(f"{name} {made[0][name]}" for name in ("torch", "transformers", "peft"))
    return f"{each}; {made[0]['machine']}; {versions}."

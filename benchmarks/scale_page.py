"""The tables of docs/scale.md, from what benchmarks/scale.py has worked out."""

from typing import Any

Found = dict[str, Any]


def page(found: Found) -> str:
    """Tables in Markdown."""
    parts = [constants(found), checks(found), implied(found), simulated(found), assumed(found)]
    return "\n\n".join(parts)


def table(head: str, rows: list[list[Any]]) -> str:
    """A table of cells."""
    columns = head.split(" | ")
    lines = [f"| {head} |", f"|{' --- |' * len(columns)}", *(f"| {' | '.join(map(str, row))} |" for row in rows)]
    return "\n".join(lines)


def constants(found: Found) -> str:
    """What was measured, by prompt, by token, by change of task."""
    known = found["constants"]
    machine, read = known["machine"], known["reading a front, ms a request"]
    files = ", ".join(f"{name} {size / 1000:.1f}" for name, _, size in known["files"])
    serve = "`results/serve.json`"
    store, switch = f"{known['load by name, ms']} ms; {known['publishes a second']} a second", "task switch"
    more = f"{known['32 tasks over 1, ms a token']:+.2f} ms a token"
    front = f"{read['20']:.2f} ms at m = 20, {read['100']:.2f} at 100"
    rows = [
        ["prompt", "file, kB, hidden size 256, 20 vectors", files, "`results/methods.jsonl`, medians"],
        ["prompt", "of these, card and checks", f"{known['card'] / 1000:.1f} kB", "bytes beyond 4 a number"],
        ["prompt", "index of the store", f"{known['index, bytes a version'] / 1000:.1f} kB", "`results/store.json`"],
        ["prompt", "load by name; publish", store, "`results/store.json`"],
        ["token", "operations of the layers, 15M", f"{known['operations of a token'] / 1e6:.1f} million", "counted"],
        ["token", "keys and values, 15M", f"{known['bytes of a place'] / 1000:.1f} kB", "counted"],
        ["token", "operations a second, one core", f"{machine['operations'] / 1e9:.0f} billion", f"fitted, {serve}"],
        ["token", "bytes read a second, one core", f"{machine['bytes'] / 1e9:.1f} billion", f"fitted, {serve}"],
        [switch, "32 tasks over 1, writing, 15M, m = 20", more, serve],
        [switch, "a request reads its own prompt, 15M", front, serve],
        ["request", "HTTP, client included", f"{known['http, ms']} ms", serve],
    ]
    return "Measured:\n\n" + table("of a | what | how much | from", rows)


def checks(found: Found) -> str:
    """Measurements beside what the two numbers say."""
    rows = [
        [
            one["what"],
            f"{one['measured']:.4g}",
            f"{one['predicted']:.4g}",
            "fitted" if one["fitted"] else f"{100 * one['error']:+.0f} %",
        ]
        for one in found["checks"]
    ]
    errors = [abs(one["error"]) for one in found["checks"] if not one["fitted"]]
    worst, mean = 100 * max(errors), 100 * sum(errors) / len(errors)
    told = f"Of {len(errors)} predictions the worst is off by {worst:.0f} %, the mean by {mean:.0f} %."
    return f"Checked:\n\n{table('CPU seconds of | measured | predicted | error', rows)}\n\n{told}"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


def implied(found: Found) -> str:
    """Bytes at 70B, and what training costs."""
    prompts, learning = found["asked"]["prompts"], found["learning"]
    rows = [[name, size(one), size(every)] for name, one, every in found["implied"]]
    head = f"70 B, 20 vectors | one | {prompts:,}"
    told = (
        f"A prompt of 20 vectors on 1,000 texts of 32 tokens (4 epochs, steps of 16) takes "
        f"{learning['operations'] / 1e15:.0f} million billion operations on the 70 B backbone: "
        f"{learning['seconds']:.0f} s of the replica below, {prompts * learning['seconds'] / 3600:.0f} hours for "
        f"{prompts:,} prompts one after the other. A step of several ranks sends "
        f"{size(learning['gradient, bytes a step'])}."
    )
    return f"Implied, bytes and training:\n\n{table(head, rows)}\n\n{told}"


def simulated(found: Found) -> str:
    """Replicas for the traffic."""
    rows = [
        [
            *(one["case"], one["m"], one["text"], one["new"] or "a label", f"**{one['replicas']}**"),
            "its own replica" if one["home"] else "by turns",
            f"{min(one['held'], found['asked']['prompts']):,}",
            f"{100 * one['missed']:.0f} %",
            f"{one['p50']:.2f} / {one['p99']:.2f}",
        ]
        for one in found["simulated"]
    ]
    asked = found["asked"]
    head = "replica | m | tokens read | written | replicas | asked | prompts it holds | not held | seconds, p50 / p99"
    told = f"{asked['rate']:,.0f} requests a second for {asked['prompts']:,} prompts"
    return f"Simulated, {told}:\n\n{table(head, rows)}"


def assumed(found: Found) -> str:
    """What none of our measurements says."""
    given, asked = found["assumed"], found["asked"]
    rows = [
        ["requests", f"come by chance (Poisson); prompts by Zipf's law, exponent {asked['skew']:g}; lognormal texts"],
        ["a step", "its operations and its bytes one after the other; weights are read once a step"],
        ["one core", "as fitted, whatever the size of the model; cores do not disturb each other"],
        [
            "4 H100",
            f"{given['peak'] / 1e12:.0f} TFLOP/s and {given['band'] / 1e12:.2f} TB/s each (NVIDIA's data sheet, dense "
            f"bfloat16, SXM), of which {100 * given['reached']:.0f} % and {100 * given['read']:.0f} % are reached, "
            "traffic between the devices included; not measured by us",
        ],
        ["70 B", "the sizes of Llama 3 70B (Grattafiori et al. 2024, arXiv:2407.21783, table 3), bfloat16"],
        ["the engine there", "256 rows at once, 2,048 tokens read a step, half of the free memory for prompts"],
        [
            "enough replicas",
            f"bear {100 * asked['reserve']:.0f} % more, with 99 of 100 answers in 1 s (10 s where 128 tokens are "
            "written)",
        ],
        ["compiled prompts", f"each replica holds what {asked['warm']:.0f} s of the same traffic left in its store"],
        ["left out", "tokenising, HTTP, the network, reading prompt files, replicas that fail or start"],
    ]
    return "Assumed:\n\n" + table("what | how", rows)

"""The report as one HTML file: nothing is loaded from anywhere, light and dark, readable on a narrow screen."""

import json
from collections.abc import Sequence
from html import escape

from softprompt.lab.blocks import POLICY, STYLE, table, wide
from softprompt.lab.plots import Dots, Point, curves, dot_plot, scatter
from softprompt.lab.verdict import LEVEL, OWN, Numbers


def page(numbers: Numbers, seconds: Sequence[Numbers], environment: Numbers, command: str) -> str:
    """The whole report. All but the sections `time` and `environment` is the same in every repetition."""
    protocol, questions = numbers["protocol"], numbers["questions"]
    title = f"{', '.join(protocol['methods'])} on {', '.join(protocol['tasks'])}"
    body = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(line)}</p>" for line in sentences(numbers))]
    body += [growth(numbers), *(result(question) for question in questions)]
    body += [tested(numbers), how(numbers), tuned(numbers), keys(numbers)]
    body += [spent(numbers, seconds), around(environment, command)]
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{escape(title)}</title><style>{STYLE}</style>"
    whole = "\n".join(part for part in body if part)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main>\n{whole}\n</main></body></html>\n'


def sentences(numbers: Numbers) -> list[str]:
    """What was found, a line a question: only what is left after the correction counts as a difference."""
    found = []
    for question in numbers["questions"]:
        sure = [pair for pair in question["pairs"] if pair["better"]]
        told = [
            f"{pair['better']} is ahead of {pair['second'] if pair['better'] == pair['first'] else pair['first']}"
            f" by {abs(pair['difference']):.3f} ±{pair['error']:.3f} (p = {pair['p_holm']:.2g})"
            for pair in sure
        ]
        differences = "; ".join(told) or "no difference between methods survives the correction"
        found.append(f"{named(question)}: {differences if question['pairs'] else 'one method'}. {beaten(question)}")
    return found


def beaten(question: Numbers) -> str:
    """How the best method stands to the best baseline: a winner among prompts need not be worth having."""
    sign = 1 if question["higher_is_better"] else -1
    best = max(question["methods"], key=lambda method: sign * method["test"]["value"])
    beside = {name: score for name, score in best["baselines"].items() if name != OWN}
    name, score = max(beside.items(), key=lambda item: sign * item[1]["value"])
    ahead = sign * (best["test"]["value"] - score["value"]) > 0
    side = "below the best mean" if ahead else "not beaten by any method"
    return f"Best baseline: {name}, {score['value']:.3f}, {side}."


def named(question: Numbers) -> str:
    """A question in words."""
    return f"{question['task']}, {question['examples']['train']:,} training examples"


def growth(numbers: Numbers) -> str:
    """Quality by size, for every task that was asked at several."""
    made = []
    for task in numbers["protocol"]["tasks"]:
        asked = sorted((q for q in numbers["questions"] if q["task"] == task), key=lambda q: q["examples"]["train"])
        if len(asked) < 2:
            continue
        lines: dict[str, list[tuple[float, float, float]]] = {}
        for question in asked:
            for method in question["methods"]:
                point = (question["examples"]["train"], method["test"]["value"], method["test"]["error"])
                lines.setdefault(method["method"], []).append(point)
        made.append(f"<h3>{escape(task)}</h3>{wide(curves(lines, asked[0]['metric']))}")
    return "<h2>By number of training examples</h2>" + "".join(made) if made else ""


def result(question: Numbers) -> str:
    """A question: its plot, its table with baselines, and the fronts."""
    methods, unit = question["methods"], question["metric"]
    beside = {name: score for name, score in methods[0]["baselines"].items() if name != OWN}
    rows = [
        Dots(m["method"], m["test"]["value"], m["test"]["error"], [run["test"]["value"] for run in m["runs"]])
        for m in methods
    ]
    rows += [Dots(name, score["value"], score["error"], muted=True) for name, score in beside.items()]
    cells = [
        [m["method"], scored(m["test"]), f"±{m['error_over_examples']:.3f}", before(m), *costs(m, question)]
        for m in methods
    ]
    cells += [
        [name, scored(score), f"±{score['error_over_examples']:.3f}", "", "", "", ""] for name, score in beside.items()
    ]
    header = ["", unit, "over examples", "before training", "parameters", "operations", "on the front of"]
    fronts = [
        scatter(
            [Point(m["method"], m[cost], m["test"]["value"], m["test"]["error"], m["method"] in on) for m in methods],
            label,
            unit,
            higher=question["higher_is_better"],
        )
        for (cost, on), label in zip(question["front"].items(), ("trained numbers", "operations of a run"), strict=True)
    ]
    broken = [f"{m['method']}: {name} broke off: {e['message']}" for m in methods for name, e in m["broken"].items()]
    lines = "".join(f"<p>{escape(line)}</p>" for line in broken)
    shown = f"<h2>{escape(named(question))}</h2>{wide(dot_plot(rows, unit))}{table(header, cells, len(methods))}{lines}"
    shown += '<p class="soft">Dots are means with ± over seeds, rings are runs; baselines are grey. '
    return shown + f"“Over examples” is the ± of one run.</p><h3>Pareto fronts</h3>{''.join(map(wide, fronts))}"


def costs(method: Numbers, question: Numbers) -> list[str]:
    """What a method costs, and the fronts that it is on."""
    on = ", ".join(cost for cost, names in question["front"].items() if method["method"] in names)
    return [f"{method['parameters']:,}", f"{method['operations']:.3g}", on]


def before(method: Numbers) -> str:
    """The score of the untrained prompt."""
    score = method["baselines"].get(OWN)
    return f"{score['value']:.3f}" if score else ""


def scored(score: Numbers) -> str:
    """A value with its ±."""
    return f"{score['value']:.3f} ±{score['error']:.3f}"


def tested(numbers: Numbers) -> str:
    """Every pair of methods."""
    rows = [
        [named(question), *differing(pair), pair["better"] or "not told apart"]
        for question in numbers["questions"]
        for pair in question["pairs"]
    ]
    if not rows:
        return ""
    told = f"Student's t over differences by seed; Holm's correction over all pairs below; level {LEVEL:g}."
    header = ["", "difference", "by seed", "p", "p corrected", "better"]
    return f"<h2>Paired tests</h2><p>{told}</p>{table(header, rows)}"


def differing(pair: Numbers) -> list[str]:
    """The cells of a pair."""
    return [f"{pair['first']} − {pair['second']}", gap(pair), p(pair["p"]), p(pair.get("p_holm"))]


def gap(pair: Numbers) -> str:
    """A difference with its ±, where there are seeds enough for one."""
    error = "" if pair["error"] is None else f" ±{pair['error']:.3f}"
    return f"{pair['difference']:+.3f}{error}"


def p(value: float | None) -> str:
    """A probability in two digits."""
    return "" if value is None else f"{value:.2g}"


def how(numbers: Numbers) -> str:
    """The protocol and the sizes of the parts."""
    facts = numbers["protocol"]
    lines = [
        f"Budget: {facts['trials']} trials of every method on every question, the first of them the recipe as it "
        f"stands, the others drawn from {', '.join(facts['over'])}, the same draws for all methods.",
        f"Choice: at seed {facts['seeds'][0]}, on a selection split of {facts['selection']:.0%} of the training "
        "examples, which no reported run reads. Dev chooses the best state of a reported run; test is only scored.",
        f"Repetition: seeds {', '.join(map(str, facts['seeds']))}; a seed decides the start, the order and, where not "
        "all training examples are used, which ones, the same for all methods.",
    ]
    rows = [[q["task"], q["size"], *(f"{q['examples'][n]:,}" for n in PARTS)] for q in numbers["questions"]]
    text = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f"<h2>Protocol</h2>{text}{table(['task', 'size', *PARTS], rows)}"


PARTS = ("train", "selection", "dev", "test")


def tuned(numbers: Numbers) -> str:
    """Every trial and its score on the selection split."""
    rows = [
        [named(question), method["method"], *attempted(trial), "chosen" if trial["trial"] == method["chosen"] else ""]
        for question in numbers["questions"]
        for method in question["methods"]
        for trial in method["trials"]
    ]
    header = ["", "method", "trial", "setting", "selection", ""]
    return f"<h2>Trials</h2><details open><summary>All {len(rows)}</summary>{table(header, rows)}</details>"


def attempted(trial: Numbers) -> list[str]:
    """The cells of a trial."""
    return [str(trial["trial"]), setting(trial["setting"]), chosen_on(trial)]


def setting(values: Numbers) -> str:
    """What a trial changes in the recipe."""
    return ", ".join(f"{key} = {value}" for key, value in values.items()) or "the recipe as it stands"


def chosen_on(trial: Numbers) -> str:
    """The score on the selection split, or why there is none."""
    score = trial["selection"]
    return f"{score['name']} {score['value']:.3f}" if score else trial["error"]["message"]


def keys(numbers: Numbers) -> str:
    """Every key of every resolved recipe."""
    parts = []
    for question in numbers["questions"]:
        recipes = [flat(method["recipe"]) for method in question["methods"]]
        names = list(dict.fromkeys(name for recipe in recipes for name in recipe))
        rows = [[name, *(recipe.get(name, "") for recipe in recipes)] for name in names]
        header = ["", *(method["method"] for method in question["methods"])]
        parts.append(f"<details><summary>{escape(named(question))}</summary>{table(header, rows)}</details>")
    return f"<h2>Hyper-parameters of the reported runs</h2>{''.join(parts)}"


def flat(recipe: Numbers) -> dict[str, str]:
    """Values by dotted key."""
    return {
        f"{section}.{key}": value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for section, values in recipe.items()
        for key, value in values.items()
    }


def spent(numbers: Numbers, seconds: Sequence[Numbers]) -> str:
    """CPU seconds: the only measured numbers that another run will not repeat."""
    rows, plots, at = [], [], iter(seconds)
    for question in numbers["questions"]:
        taken = [next(at) for _ in question["methods"]]
        for cost in taken:
            both = [f"{cost[f'cpu_seconds_of_{what}']:.2f}" for what in ("search", "a_run")]
            front = "yes" if cost["on_front"] else ""
            rows.append([named(question), cost["method"], *both, front])
        pairs = zip(question["methods"], taken, strict=True)
        points = [
            Point(m["method"], c["cpu_seconds_of_a_run"], m["test"]["value"], m["test"]["error"], c["on_front"])
            for m, c in pairs
        ]
        plot = scatter(points, "CPU seconds of a run", question["metric"], higher=question["higher_is_better"])
        plots.append(f"<h3>{escape(named(question))}</h3>{wide(plot)}")
    header = ["", "method", "all trials", "one run", "on the front"]
    told = "CPU seconds of training with its dev scores, loading and test left out. They differ from run to run; every "
    told += "number above is repeated to the last bit by the same command on the same machine."
    return f'<section id="time"><h2>Time</h2><p>{told}</p>{table(header, rows)}{"".join(plots)}</section>'


def around(environment: Numbers, command: str) -> str:
    """The environment and the command."""
    rows = [[name, str(value)] for name, value in environment.items()]
    shown = f"<h2>Environment</h2>{table(['', ''], rows)}<h2>Command</h2><pre>{escape(command)}</pre>"
    return f'<section id="environment">{shown}</section>'

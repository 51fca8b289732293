"""The numbers of a prompt beside its baselines, as a table and in one honest sentence."""

from typing import Any

from softprompt.cli.output import say, table


def number(score: dict[str, Any]) -> str:
    """A score with its interval: `0.925 ±0.045 (n=120)`."""
    return f"{score['value']:.3f} ±{score['error']:.3f} (n={score['n']})"


def scores(report: dict[str, Any], title: str) -> None:
    """The deciding metric of the prompt and of every baseline, then the other metrics of the prompt.

    `report` holds `scores` and `baselines` as `softprompt.evaluate.Report.as_dict` writes them.
    """
    first, *others = report["scores"]
    rows = [["this prompt", number(first)]]
    trained = report.get("comparators", {})
    rows += [[name, number(score)] for name, score in (report["baselines"] | trained).items()]
    table([title, first["name"]], rows)
    if others:
        say("also: " + ", ".join(f"{score['name']} {score['value']:.3f} ±{score['error']:.3f}" for score in others))
    say(verdict(report))


def verdict(report: dict[str, Any]) -> str:
    """Whether the prompt is worth having, in one sentence."""
    from softprompt.metrics import METRICS

    if not report["baselines"]:
        return "nothing to compare it with"
    mine = report["scores"][0]
    sign = 1 if METRICS[report["metric"]].higher_is_better else -1
    name, best = max(report["baselines"].items(), key=lambda item: sign * item[1]["value"])
    ahead = sign * (mine["value"] - best["value"])
    if ahead <= 0:
        return f"not better than the {name} baseline, which is simpler to use"
    if ahead <= mine["error"]:
        return f"ahead of the {name} baseline by {ahead:.3f}, which is within the ±: more test examples would tell"
    return f"ahead of the best baseline ({name}) by {ahead:.3f}"

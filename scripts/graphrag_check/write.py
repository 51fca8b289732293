"""Prompts for a corpus with braces, by our tuner and the scripted model of the tests, into a project of GraphRAG."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from graphrag.scripted import Model, corpus, graph_of, story

from softprompt.graphrag import find_target, make_plan, tune, validate
from softprompt.graphrag.forms import messages, render
from softprompt.graphrag.grammar import write


def main(root: Path) -> None:
    """Write prompts, name them in settings.yaml, and say what GraphRAG should make of them."""
    corpus(root / "input", 20, braces=True)
    target = find_target("graphrag3")
    for name in ("extract_graph", "summarize_descriptions", "community_report_graph"):
        theirs = validate(root / "prompts" / f"{name}.txt", target)
        assert theirs.good, theirs
    made = tune(make_plan(root, None, target, force=True), Model(target))
    assert (made.against.name, made.kept) == ("yours", "tuned"), made.verdict
    settings = root / "settings.yaml"
    text = settings.read_text(encoding="utf-8")
    for name in target.names:
        text = text.replace(f'"prompts/{name}"', f'"prompts-tuned/{name}"')
    assert text.count("prompts-tuned/") == len(target.names)
    settings.write_text(text, encoding="utf-8")
    chunk = story(19) + ' {"a": {0}} } {'
    graph = graph_of(chunk)
    expected = {
        "chunk": chunk,
        "answer": write(graph, target.kind, target.marks),
        "asked": messages(render(made.draft, target), target, chunk, ("A",))[0]["content"],
        "entities": [[one.name.upper(), one.kind.upper()] for one in graph.entities],
        "relations": [[one.source.upper(), one.target.upper(), one.weight] for one in graph.relations],
    }
    (root / "expected.json").write_text(json.dumps(expected), encoding="utf-8")


main(Path(sys.argv[1]))

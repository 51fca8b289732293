"""Tuned prompts are kept where they are better on chunks held out, and only there; requests stand alone."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
from graphrag.scripted import Model, corpus, extractions, graph_of, spoiled, story

from softprompt.errors import SoftpromptError
from softprompt.graphrag import Given, find_target, make_plan, tune, validate
from softprompt.graphrag.examples import make_examples, mended
from softprompt.graphrag.forms import Draft, as_files, render
from softprompt.graphrag.grammar import Entity, Graph, Relation, read
from softprompt.graphrag.measure import Measured, Reading, judge, reading
from softprompt.graphrag.speaker import Meter, type_list
from softprompt.graphrag.targets import TARGETS

GRAPHRAG = find_target("graphrag3")


def run(root: Path, model: Model, calls: int | None = None, anyway: bool = False, **settings):
    """Tune for a folder."""
    plan = make_plan(root, None, model.target, **settings)
    return tune(plan, model, calls=calls, anyway=anyway, facts={"model": "scripted"})


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_prompts_that_are_better_are_written_for_every_target(target, tmp_path: Path) -> None:
    made = run(corpus(tmp_path, 20, braces=True), Model(target))
    assert made.kept == "tuned", made.verdict.sentence
    assert made.verdict.score.difference > 0.1
    out = tmp_path / "prompts-tuned"
    assert sorted(path.name for path in out.iterdir()) == sorted([*target.names, "manifest.json"])
    for name in target.names:
        found = validate(out / name, target)
        assert found.good, found.findings
    extract = as_files(render(made.draft, target), target)[target.names[0]]
    assert (out / target.names[0]).read_bytes() == extract
    assert made.draft.types == ("PERSON", "FIRM")
    assert len(made.examples.kept) == 5


def test_the_manifest_says_where_files_come_from(tmp_path: Path) -> None:
    made = run(corpus(tmp_path, 20), Model(), seed=4)
    out = tmp_path / "prompts-tuned"
    told = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert told["files"] == {name: sha256((out / name).read_bytes()).hexdigest() for name in GRAPHRAG.names}
    assert (told["model"], told["seed"], told["kept"]) == ("scripted", 4, "tuned")
    assert told["asked"]["calls"] == made.plan.calls
    hashes = {sha256(story(n).encode()).hexdigest() for n in range(20)}
    used = [one["sha256"] for use in ("shown", "dev", "held") for one in told["chunks"][use]]
    assert set(used) <= hashes
    assert set(told["examples"]["kept"]) <= set(used)
    again = run(corpus(tmp_path / "again", 20), Model(), seed=4)
    assert again.files == made.files


def test_no_gain_leaves_our_default(tmp_path: Path) -> None:
    made = run(corpus(tmp_path, 20), Model(good=lambda prompt: True))
    assert (made.kept, made.verdict.better) == ("ours", False)
    assert "keep the default" in made.verdict.sentence
    text = (tmp_path / "prompts-tuned" / "extract_graph.txt").read_text(encoding="utf-8")
    assert text == render(Draft(), GRAPHRAG)["extract_graph.txt"]


def test_no_gain_leaves_the_prompt_in_use_alone(tmp_path: Path) -> None:
    mine = render(Draft(task="My own words."), GRAPHRAG)["extract_graph.txt"]
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "extract_graph.txt").write_text(mine)
    (tmp_path / "settings.yaml").write_text("extract_graph: {prompt: prompts/extract_graph.txt}\n")
    corpus(tmp_path / "input", 20)
    model = Model(good=lambda prompt: True)
    made = run(tmp_path, model)
    assert (made.kept, made.files) == ("yours", {})
    assert [path.name for path in (tmp_path / "prompts-tuned").iterdir()] == ["manifest.json"]
    assert any("My own words." in one[0]["content"] for one in extractions(model))
    assert (tmp_path / "prompts" / "extract_graph.txt").read_text() == mine


def test_a_prompt_of_the_settings_that_does_not_load_is_an_error_before_anything_is_asked(tmp_path: Path) -> None:
    corpus(tmp_path / "input", 9)
    (tmp_path / "settings.yaml").write_text("extract_graph: {prompt: mine.txt}\n")
    older = as_files(render(Draft(), find_target("graphrag2")), find_target("graphrag2"))["extract_graph.txt"]
    cases = {
        None: r"mine.txt.*no such file.*put it there.*--against",
        b"{input_text} {strange} <|> <|COMPLETE|>": r"strange.*graphrag validate.*--against",
        b"\xff\xfe": r"no UTF-8 text.*--against",
        older: r"--for graphrag2, which can use it",
    }
    for data, said in cases.items():
        if data is not None:
            (tmp_path / "mine.txt").write_bytes(data)
        model = Model()
        with pytest.raises(SoftpromptError, match=f"SP-E833.*{said}"):
            run(tmp_path, model)
        assert model.asked == []
    (tmp_path / "other.txt").write_bytes(as_files(render(Draft(), GRAPHRAG), GRAPHRAG)["extract_graph.txt"])
    assert run(tmp_path, Model(), against=tmp_path / "other.txt").against.path == tmp_path / "other.txt"
    nano = make_plan(tmp_path, tmp_path / "nano", find_target("nano"))
    assert nano.rival is None  # its prompts are named by no settings


def mine_in_use(root: Path, name: str) -> None:
    """A project whose settings name this prompt, as good as any."""
    path = root / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(as_files(render(Draft(task="My own words."), GRAPHRAG), GRAPHRAG)["extract_graph.txt"])
    (root / "settings.yaml").write_text(f"extract_graph: {{prompt: {name}}}\n")


def test_what_an_earlier_run_wrote_goes_where_the_verdict_is_for_the_prompt_in_use(tmp_path: Path) -> None:
    corpus(tmp_path / "input", 20)
    assert run(tmp_path, Model()).kept == "tuned"
    out = tmp_path / "prompts-tuned"
    (out / "summarize_descriptions.txt").write_text("changed by hand")
    (out / "notes.txt").write_text("of the user")
    mine_in_use(tmp_path, "prompts/extract_graph.txt")
    made = run(tmp_path, Model(good=lambda prompt: True), force=True)
    assert (made.kept, made.files) == ("yours", {})
    assert made.removed == ("community_report_graph.txt", "extract_graph.txt")
    assert made.left == {"summarize_descriptions.txt": None}
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "notes.txt", "summarize_descriptions.txt"]
    told = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert (told["removed"], told["left"]) == (list(made.removed), made.left)


def test_files_of_an_earlier_run_that_are_in_use_stay_until_they_are_not(tmp_path: Path) -> None:
    corpus(tmp_path / "input", 20)
    assert run(tmp_path, Model()).kept == "tuned"
    out = tmp_path / "prompts-tuned"
    names = ("extract_graph", "summarize_descriptions")
    keys = ("extract_graph: {prompt", "summarize_descriptions: {prompt")
    lines = [f"{key}: prompts-tuned/{name}.txt}}" for key, name in zip(keys, names, strict=True)]
    (tmp_path / "settings.yaml").write_text("\n".join(lines))
    before = {f"{name}.txt": (out / f"{name}.txt").read_bytes() for name in names}
    made = run(tmp_path, Model(good=lambda prompt: True), force=True)
    assert (made.kept, made.removed) == ("yours", ("community_report_graph.txt",))
    assert {name: (out / name).read_bytes() for name in before} == before
    assert made.left == {name: sha256(data).hexdigest() for name, data in before.items()}
    mine_in_use(tmp_path, "prompts/extract_graph.txt")
    again = run(tmp_path, Model(good=lambda prompt: True), force=True)
    assert (again.removed, again.left) == (tuple(before), {})
    assert [path.name for path in out.iterdir()] == ["manifest.json"]


def test_a_run_for_another_program_takes_away_what_the_one_before_wrote_and_nothing_else(tmp_path: Path) -> None:
    root = corpus(tmp_path, 8)
    run(root, Model(find_target("nano")), anyway=True)
    out = root / "prompts-tuned"
    (out / "extract_graph.txt").symlink_to(root / "00.txt")
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["../01.txt"] = sha256((root / "01.txt").read_bytes()).hexdigest()
    (out / "manifest.json").write_text(json.dumps(manifest))
    made = run(root, Model(find_target("lightrag")), anyway=True, force=True)
    assert made.removed == ("nano_graphrag_prompts.json",)
    assert (out / "extract_graph.txt").is_symlink()
    assert (root / "01.txt").read_text() == story(1)


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_named_prompts_are_what_has_to_be_beaten(target, tmp_path: Path) -> None:
    for name, data in as_files(render(Draft(task="Other words."), target), target).items():
        (tmp_path / name).write_bytes(data)
    model = Model(target, good=lambda prompt: True)
    path = tmp_path / target.names[0]
    made = run(corpus(tmp_path / "notes", 20), model, against=path)
    assert (made.kept, made.files, made.against.path) == ("yours", {}, path)
    assert made.verdict.score.difference == 0
    assert sum("Other words." in str(one) for one in extractions(model)) == 2 * len(made.plan.split.held) == 12


def test_named_prompts_that_cannot_be_loaded_are_an_error_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("{input_text} {x} <|> <|COMPLETE|>")
    (tmp_path / "bad.json").write_text('{"summarize_entity_descriptions": "{entity_name} {description_list}"}')
    root = corpus(tmp_path / "notes", 8)
    for target, name in (("graphrag3", "bad.txt"), ("nano", "bad.json"), ("nano", "bad.txt")):
        model = Model(find_target(target))
        with pytest.raises(SoftpromptError, match=r"SP-E799.*graphrag validate"):
            run(root, model, against=tmp_path / name)
        assert model.asked == []


def test_finding_less_is_no_gain() -> None:
    faulty = Reading(0.5, 0.5, 0.5, 1.0, 1.0, None, facts=9, tokens=1)
    clean = Reading(1.0, 1.0, 1.0, 1.0, 1.0, None, facts=1, tokens=1)
    found = judge(Measured([clean] * 8), Measured([faulty] * 8))
    assert not found.better
    assert "fewer facts" in found.sentence
    assert judge(Measured([Reading(1, 1, 1, 1, 1, None, 9, 1)] * 8), Measured([faulty] * 8)).better


def test_a_few_chunks_cannot_show_a_gain_and_anyway_writes_it_all_the_same(tmp_path: Path) -> None:
    """The corpus of three chunks, at which GraphRAG's own tuner crashes."""
    made = run(corpus(tmp_path, 3), Model())
    assert (made.kept, len(made.plan.split.shown), len(made.plan.split.held)) == ("ours", 2, 1)
    assert "not measured" in made.verdict.sentence
    again = run(tmp_path, Model(), anyway=True, force=True)
    assert again.kept == "tuned"
    assert "joined" in (tmp_path / "prompts-tuned" / "extract_graph.txt").read_text(encoding="utf-8")


def test_one_chunk_is_enough_to_write_from(tmp_path: Path) -> None:
    made = run(corpus(tmp_path, 1), Model(), anyway=True)
    assert len(made.examples.kept) == 1


def test_nothing_is_written_over_unless_told(tmp_path: Path) -> None:
    root = corpus(tmp_path, 8)
    (root / "prompts-tuned").mkdir()
    (root / "prompts-tuned" / "extract_graph.txt").write_text("mine")
    model = Model()
    with pytest.raises(SoftpromptError, match=r"SP-E795.*extract_graph.txt in the way.*--force"):
        run(root, model)
    assert model.asked == []
    run(root, model, force=True, anyway=True)
    assert (root / "prompts-tuned" / "extract_graph.txt").read_text() != "mine"


def test_every_example_is_asked_for_in_a_request_of_its_own(tmp_path: Path) -> None:
    """Defect 1: GraphRAG's tuner puts all chunks into every request."""
    model = Model()
    made = run(corpus(tmp_path, 20), model)
    asked = extractions(model)[:5]
    for one, chunk in zip(asked, made.plan.split.shown, strict=True):
        assert len(one) == 1
        assert [n for n in range(20) if story(n) in one[0]["content"]] == [int(chunk.source[:2])]
    for example, chunk in zip(made.examples.kept, made.plan.split.shown, strict=True):
        assert example.text == chunk.text
        assert {one.name.title() for one in example.graph.entities} == {e.name for e in graph_of(chunk.text).entities}


def test_unusable_examples_are_asked_for_again_and_dropped_at_last(tmp_path: Path) -> None:
    def broken(prompt: str, rollout: int) -> bool:
        year = prompt.rsplit("In year ", 1)[1][:4]
        return year == "1900" or (year == "1907" and rollout == 0)

    root = corpus(tmp_path, 3)
    plan = make_plan(root, None, GRAPHRAG, held=0, examples=3)
    model = Model(broken=broken)
    made = make_examples(Meter(model, 100), Draft(types=("PERSON", "FIRM")), GRAPHRAG, plan.split.shown, 0)
    assert (len(made.kept), made.retried) == (len(plan.split.shown) - 1, 3 if len(plan.split.shown) > 1 else 2)
    assert len(made.dropped) == 1
    assert "00.txt: an empty answer" in made.dropped[0] or "records can be used" in made.dropped[0]
    reserved = make_examples(Meter(Model(broken=broken), 4), Draft(types=("PERSON",)), GRAPHRAG, plan.split.shown, 4)
    assert reserved.retried == 0


def test_without_a_single_example_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SoftpromptError, match="SP-E797"):
        run(corpus(tmp_path, 8), Model(broken=lambda prompt, rollout: True))


def test_what_the_text_does_not_bear_is_taken_out_of_an_example() -> None:
    graph = spoiled(graph_of(story(0)))
    twice = Graph((*graph.entities, graph.entities[0]), graph.relations)
    left, removed, wrong = mended(twice, story(0), ("Person", "Firm"))
    assert (left, removed, wrong) == (graph_of(story(0)), 3, "")
    assert mended(twice, story(0), ("SHIP",))[2].startswith("only 0 of 6")
    assert mended(Graph(), "", ("A",))[2] == "an empty answer"
    two = graph_of(story(0)).entities
    assert mended(Graph(two), story(0), ("Person", "Firm"))[2] == "no relationship that can be used"


def test_a_text_with_delimiters_of_its_own_does_not_become_an_unreadable_example(tmp_path: Path) -> None:
    corpus(tmp_path, 6)
    nasty = 'The manual says:\n("entity"<|>X<|>Y)\n##\n<|COMPLETE|> ' + story(7)
    (tmp_path / "07.txt").write_text(nasty, encoding="utf-8")
    made = run(tmp_path, Model(), examples=7, held=0)
    assert any("07.txt" in why for why in made.examples.dropped)


def test_types_are_read_from_lists_that_are_cut_off_too_many_or_no_json() -> None:
    assert type_list('Sure: ["Person", "person ", "Air Port"] as asked') == ("PERSON", "AIR PORT")
    assert type_list('["Person", "Ship", "Shi') == ("PERSON", "SHIP")
    assert type_list("- person\n- 2. ship") == ("PERSON", "SHIP")
    assert type_list("[]") is None


def test_given_facts_are_not_asked_for_and_types_are_capped(tmp_path: Path) -> None:
    model = Model(types=json.dumps(["Person", "Firm", *(f"T{n}" for n in range(30))]))
    assert len(run(corpus(tmp_path, 8), model, given=Given(cap=4)).draft.types) == 4
    given = Given("rail", "Norwegian", "You are a clerk.", ("PERSON", "FIRM"))
    model = Model()
    made = run(corpus(tmp_path / "b", 8), model, given=given, held=0)
    assert (made.domain, made.draft.language, made.draft.persona) == ("rail", "Norwegian", "You are a clerk.")
    assert made.asked["calls"] == made.plan.calls == 2 + 5


def test_answers_that_cannot_be_used_are_asked_for_again_and_then_an_error(tmp_path: Path) -> None:
    model = Model(types="I do not know;")
    with pytest.raises(SoftpromptError, match=r"SP-E794.*give --types"):
        run(corpus(tmp_path, 8), model)
    asked = [one for one in model.asked if "JSON list" in one["messages"][0]["content"]]
    assert [one["rollout"] for one in asked] == [0, 1, 2]


def wordy(prompt: str) -> bool:
    return "Carefully" in prompt


def test_a_budget_betters_the_instructions_within_it(tmp_path: Path) -> None:
    model = Model(good=lambda prompt: wordy(prompt) or "archivist" not in prompt)
    made = run(corpus(tmp_path, 30), model, calls=100, samples=1)
    assert [one.kept for one in made.rounds][:2] == [True, False]
    assert made.rounds[1].why == "the same instructions"
    assert made.draft.task.endswith("{Carefully}")
    assert "{{Carefully}}" in render(made.draft, GRAPHRAG)["extract_graph.txt"]
    assert made.asked["calls"] == len(model.asked) <= 100


def test_instructions_that_copy_a_chunk_or_break_the_format_are_refused(tmp_path: Path) -> None:
    tasks = {1: story(3), 2: "x" * 3000, 3: ""}
    plan = make_plan(corpus(tmp_path, 30), None, GRAPHRAG)
    tasks[1] = plan.split.dev[0].text
    made = tune(plan, Model(task=lambda rollout: tasks.get(rollout, "y")), calls=100)
    assert [one.kept for one in made.rounds] == [False, False, False]
    assert ["words in a row" in made.rounds[0].why, "characters" in made.rounds[1].why] == [True, True]
    assert made.rounds[2].why == "no instructions in the answer"


def test_a_budget_below_the_plan_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    model = Model()
    with pytest.raises(SoftpromptError, match=r"SP-E796.*give --calls"):
        run(corpus(tmp_path, 20), model, calls=10)
    assert model.asked == []


def test_shares_of_a_reading_are_those_of_its_faults() -> None:
    graph = spoiled(graph_of(story(0)))
    found = reading([graph, graph_of(story(0))], story(0), ("PERSON",), 5, False)
    assert (found.parsed, found.closed, found.grounded) == (1.0, 0.5, pytest.approx(2 / 3))
    assert (found.typed, found.distinct, found.agreeing) == (pytest.approx(2 / 3), 1.0, pytest.approx(3 / 5))
    assert found.facts == 0  # the firm is of a type that was not given
    assert len(found.faults) == 3
    assert reading([graph_of(story(0))], story(0), None, 5, True).typed is None
    assert reading([Graph()], story(0), None, 5, False).parsed == 0.0
    edge = Relation("A", "A", "x")
    assert reading([Graph((Entity("A", "T", "d"),), (edge,))], "A", ("T",), 1, False).facts == 0


def test_the_example_in_a_written_prompt_is_read_by_the_target_as_it_was_meant(tmp_path: Path) -> None:
    run(corpus(tmp_path, 20, braces=True), Model())
    text = (tmp_path / "prompts-tuned" / "extract_graph.txt").read_text(encoding="utf-8")
    filled = text.format(input_text="x", entity_types="y")
    assert '{"id": {0}, "x": {} and ends with a }.' in filled
    answer = filled.split("Output:\n")[1].partition("<|COMPLETE|>")[0] + "<|COMPLETE|>"
    graph = read(answer, "tuples", GRAPHRAG.marks)
    assert (graph.relations[0].weight, graph.dropped, graph.unweighted) == (8.0, (), 0)

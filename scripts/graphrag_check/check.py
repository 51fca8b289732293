"""Run with GraphRAG's interpreter: its own configuration loads our files, and its own extractors work with them."""

import asyncio
import json
import logging
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

from graphrag.config.load_config import load_config
from graphrag.index.operations.extract_graph.graph_extractor import GraphExtractor
from graphrag.index.operations.summarize_communities.community_reports_extractor import (
    CommunityReportResponse,
    CommunityReportsExtractor,
)
from graphrag.index.operations.summarize_descriptions.description_summary_extractor import SummarizeExtractor


class Scripted:
    """A model that answers one text, and keeps what it was asked."""

    tokenizer = SimpleNamespace(num_tokens=lambda text: len(text) // 4)

    def __init__(self, content: str) -> None:
        self.content, self.asked = content, []

    async def completion_async(self, messages, **settings):
        self.asked.append(messages if isinstance(messages, str) else text_of(messages[-1]))
        report = CommunityReportResponse(title="T", summary="S", findings=[], rating=1.0, rating_explanation="R")
        return SimpleNamespace(content=self.content, formatted_response=report)


def text_of(message) -> str:
    """The text of a message, whatever GraphRAG's builder makes of it."""
    return message["content"] if isinstance(message, dict) else message.content


async def main(root: Path) -> None:
    expected = json.loads((root / "expected.json").read_text(encoding="utf-8"))
    config = load_config(root)
    failed = []

    def on_error(error, *rest) -> None:
        failed.append(repr(error))

    prompt = config.extract_graph.resolved_prompts().extraction_prompt
    model = Scripted(expected["answer"])
    entities, relations = await GraphExtractor(model=model, prompt=prompt, max_gleanings=0, on_error=on_error)(
        expected["chunk"], entity_types=["A"], source_id="1"
    )
    assert not failed, failed
    assert entities[["title", "type"]].values.tolist() == expected["entities"], entities
    found = relations[["source", "target", "weight"]].values.tolist()
    assert found == expected["relations"], relations
    assert model.asked == [expected["asked"]], "not what our scoring asks"

    settings = config.summarize_descriptions
    model = Scripted("both")
    summary = settings.resolved_prompts().summarize_prompt
    extractor = SummarizeExtractor(model, settings.max_length, settings.max_input_tokens, summary, on_error)
    made = await extractor("ADA {x}", ["one {a}", "two }"])
    assert made.description == "both"
    assert "ADA {x}" in model.asked[0]
    assert f"{settings.max_length} words" in model.asked[0], "max_length has no effect"

    reports = config.community_reports
    model = Scripted("")
    report = CommunityReportsExtractor(model, reports.resolved_prompts().graph_prompt, reports.max_length, on_error)
    made = await report("id,title\n1,ADA {x}")
    assert not failed, failed
    assert made.structured_output is not None
    assert made.structured_output.title == "T"
    assert f"{reports.max_length} words" in model.asked[0], "max_report_length has no effect"
    assert '"findings": [' in model.asked[0]
    print(f"GraphRAG {version('graphrag')}: {len(entities)} entities, {len(relations)} relationships as expected;")
    print("summaries and reports are asked for with the lengths of the settings")


logging.disable(logging.INFO)
asyncio.run(main(Path(sys.argv[1]).resolve()))

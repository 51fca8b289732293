"""The prompts of the demo behind a server, asked by the official client of OpenAI's API."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from softprompt.backbones import Backbone


def ask(folder: Path, backbone: Backbone, asked: Sequence[tuple[str, str]]) -> tuple[str, list[str]]:
    """The address that a server of the folder's prompts had, and its answers to (task, text) pairs sent at once.

    Raises `ModuleNotFoundError` where fastapi, uvicorn, prometheus-client or openai are not installed.
    """
    import openai

    from softprompt.serve.beside import beside
    from softprompt.serve.http.shelf import Files

    with beside(Files([folder]), backbone) as address, ThreadPoolExecutor(len(asked)) as threads:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none")

        def one(pair: tuple[str, str]) -> str:
            task, text = pair
            answer = client.chat.completions.create(model=task, messages=[{"role": "user", "content": text}])
            return answer.choices[0].message.content or ""

        return address, list(threads.map(one, asked))

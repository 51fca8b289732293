"""The page of the API, from its OpenAPI document: plain HTML that loads nothing."""

import json
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
summary { cursor: pointer; padding: .4rem 0; }
code, pre { font: .85rem/1.5 ui-monospace, monospace; }
pre { overflow-x: auto; padding: .8rem; border: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
details { border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
b { display: inline-block; min-width: 3.5rem; }
"""
FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>softprompt API</title><style>{style}</style></head>
<body><h1>softprompt API</h1><p>{about} The document behind this page: <a href="/openapi.json">openapi.json</a>.
The page of the prompts: <a href="/">here</a>.</p>{routes}</body></html>"""


def reference(document: dict[str, Any]) -> str:
    """The whole page."""
    schemas = document.get("components", {}).get("schemas", {})
    routes = [
        route(method, path, facts, schemas)
        for path, methods in document["paths"].items()
        for method, facts in methods.items()
    ]
    return FRAME.format(style=STYLE, about=escape(document["info"]["description"]), routes="".join(routes))


def route(method: str, path: str, facts: dict[str, Any], schemas: dict[str, Any]) -> str:
    """One route, folded up."""
    body = facts.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    name = body.get("$ref", "").rpartition("/")[2]
    shown = f"<pre>{escape(json.dumps(schemas[name], indent=2))}</pre>" if name in schemas else ""
    head = f"<summary><b>{method.upper()}</b> <code>{escape(path)}</code></summary>"
    return f"<details>{head}<p>{escape(facts.get('description', ''))}</p>{shown}</details>"

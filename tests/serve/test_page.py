"""The page: one file without outside resources, and what it does in a real browser."""

import re
from pathlib import Path

import pytest
from serve.browser import FOUND, Browser

import softprompt.serve.http.app as app

PAGE = app.PAGE.read_text(encoding="utf-8")
needs_browser = pytest.mark.skipif(FOUND is None, reason="no Chromium on this machine (apt-get install chromium)")


def test_the_page_is_one_file_that_names_no_other_place():
    links = [link for link in re.findall(r"""(?:src|href)=["']([^"']*)""", PAGE) if link != "data:,"]
    assert links == ["#try", "/docs", "/metrics"]
    assert [link for link in re.findall(r"https?://[^\"' ]*", PAGE) if link != "http://www.w3.org/2000/svg"] == []
    assert "innerHTML" not in PAGE
    assert "eval(" not in PAGE


def test_the_policy_allows_what_is_on_the_page_and_nothing_else(server):
    with server.http() as http:
        for path in ("/", "/docs"):
            policy = http.get(path).headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_a_browser_shows_prompts_and_answers_side_by_side(start, tmp_path: Path, width, dark):
    with start(pause=0.01) as server, Browser(tmp_path, width=width, dark=dark) as browser:
        browser.open(server.url)
        browser.until("document.querySelectorAll('#picks input').length > 3")
        assert browser.run("document.querySelectorAll('#rows tr').length") == 5
        ask = """document.querySelectorAll('#picks input').forEach((box) => { box.checked = true; });
            document.querySelector('#text').value = '<b>one</b> two three';
            document.querySelector('#form').requestSubmit()"""
        browser.run(ask)
        browser.until("document.querySelector('#said').textContent.includes('writer: <b>one</b> two three')")
        told = browser.run("document.querySelector('#results').innerText")
        assert "75.0 %" in told
        assert "X" in told
        assert browser.run("document.querySelectorAll('#results b').length") == 0, "text became markup"
        browser.run("document.querySelector('button.name').click()")
        browser.until("!document.querySelector('#card').hidden")
        assert browser.run("document.documentElement.scrollWidth") <= width
        ground = browser.run("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(20, 23, 26)") == dark
        assert browser.complaints() == []
        assert all(url.startswith((server.url, "data:")) for url in browser.asked())


@needs_browser
def test_everything_on_the_page_has_a_name_and_can_be_reached_by_keyboard(start, tmp_path: Path):
    with start() as server, Browser(tmp_path) as browser:
        browser.open(server.url)
        browser.until("document.querySelectorAll('#picks input').length > 3")
        nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
        active = {"button", "link", "textbox", "checkbox"}
        found = [n for n in nodes if not n["ignored"] and n.get("role", {}).get("value") in active]
        assert len(found) > 10
        assert [n for n in found if not n.get("name", {}).get("value")] == []
        assert {n["role"]["value"] for n in nodes if not n["ignored"]} >= {"main", "banner", "navigation", "table"}
        reach = "[...document.querySelectorAll('button, a, textarea, input')].every((e) => e.tabIndex >= 0)"
        assert browser.run(reach)


@needs_browser
def test_with_a_key_the_browser_asks_for_it_and_then_everything_works(start, tmp_path: Path):
    with start(keys=["k" * 20]) as server, Browser(tmp_path) as browser:
        browser.open(server.url)
        assert "softprompt" not in browser.run("document.title")
        browser.open(server.url.replace("http://", f"http://me:{'k' * 20}@"))
        browser.until("document.querySelectorAll('#picks input').length > 3")


@needs_browser
def test_the_reference_of_the_api_is_readable(start, tmp_path: Path):
    with start() as server, Browser(tmp_path) as browser:
        browser.open(f"{server.url}/docs")
        browser.until("document.querySelectorAll('details').length > 10")
        assert "/v1/classify" in browser.run("document.body.innerText")
        assert browser.complaints() == []

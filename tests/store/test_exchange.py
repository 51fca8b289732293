"""What goes out comes back the same; two stores merge without losing a version on either side."""

import json
from pathlib import Path

import fsspec
import pytest
from tiny_prompts import write

from softprompt.errors import ArtifactError, SoftpromptError
from softprompt.store import Store
from softprompt.store.transfer import export_file, pull, push
from softprompt.store.upkeep import verify


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(tmp_path / "other")


@pytest.fixture
def full(store: Store, tmp_path: Path) -> Store:
    store.publish(write(tmp_path, 0), "base", note="first")
    store.publish(write(tmp_path, 1), "reviews", parents=["transfer=base"])
    store.publish(write(tmp_path, 2), "reviews", parents=["reviews@1"], aliases=["prod"])
    return store


def contents(store: Store) -> list[tuple[object, ...]]:
    return [(e.reference, e.sha256, e.created, e.note, e.aliases, e.value) for e in store.list(every=True)]


@pytest.fixture(params=["folder", "file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
    return {"folder": f"{tmp_path}/out", "file": f"file://{tmp_path}/out", "memory": "memory://team/prompts"}[
        request.param
    ]


def test_what_is_pushed_can_be_pulled_the_same(full: Store, other: Store, url: str) -> None:
    sent = push(full, url)
    assert (sent.added, sent.known, sent.aliases) == (["base@1", "reviews@1", "reviews@2"], 0, ["reviews@prod"])
    got = pull(other, url)
    assert (got.added, got.renumbered) == (sent.added, {})
    assert contents(other) == contents(full)
    assert other.family("reviews@1") == full.family("reviews@1")
    assert verify(other).problems == []
    other.load("reviews@prod")


def test_doing_it_again_changes_nothing(full: Store, other: Store, url: str) -> None:
    push(full, url)
    pull(other, url)
    before = contents(other)
    assert (push(full, url).known, push(other, url).added, pull(other, url).added) == (3, [], [])
    assert contents(other) == before


def test_only_what_is_asked_for_is_sent(full: Store, other: Store, url: str) -> None:
    push(full, url, ["reviews@prod", "base"])
    assert pull(other, url, ["reviews@2"]).added == ["reviews@2"]
    assert [entry.reference for entry in other.list(every=True)] == ["reviews@2"]
    assert pull(other, url, ["base"]).added == ["base@1"]
    with pytest.raises(SoftpromptError, match="SP-E612"):
        pull(other, url, ["reviews@1"])
    with pytest.raises(SoftpromptError, match="SP-E612"):
        push(full, url, ["nobody"])


def test_versions_that_both_sides_made_are_both_kept(full: Store, other: Store, tmp_path: Path, url: str) -> None:
    push(full, url, ["base"])
    for seed in (10, 11):
        other.publish(write(tmp_path, seed), "base", aliases=["prod"])
    got = pull(other, url)
    assert got.renumbered == {"base@1": "base@3"}
    assert [entry.version for entry in other.list(every=True)] == [1, 2, 3]
    sent = push(other, url)
    assert sent.renumbered == {"base@1": "base@2", "base@2": "base@3", "base@3": "base@1"}
    assert pull(full, url).added == ["base@2", "base@3"]
    assert full.path("base@prod").read_bytes() == other.path("base@prod").read_bytes()


def test_an_alias_that_points_elsewhere_moves_only_when_asked(full: Store, other: Store, url: str) -> None:
    push(full, url)
    pull(other, url)
    full.alias("reviews@1", "prod")
    sent = push(full, url)
    assert (sent.aliases, sent.kept) == ([], ["reviews@prod"])
    assert push(full, url, aliases=True).aliases == ["reviews@prod"]
    assert pull(other, url).kept == ["reviews@prod"]
    assert other.resolve("reviews@prod").version == 2
    pull(other, url, aliases=True)
    assert other.resolve("reviews@prod").version == 1
    assert other.rollback("reviews@prod").version == 2


def test_what_was_removed_here_does_not_come_back_by_itself(full: Store, other: Store, url: str) -> None:
    push(full, url)
    pull(other, url)
    other.remove("base@1")
    assert pull(other, url).removed == ["base@1"]
    assert [entry.name for entry in other.list()] == ["reviews"]


def test_a_damaged_file_is_neither_sent_nor_taken(full: Store, other: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    push(full, str(out))
    blob = next((out / "blobs").iterdir())
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(SoftpromptError, match=r"SP-E617.*do not match their SHA-256"):
        pull(other, str(out))
    assert other.list() == []
    path = full.path("base")
    path.chmod(0o644)
    path.write_bytes(b"")
    with pytest.raises(SoftpromptError, match="SP-E613"):
        push(full, str(tmp_path / "new"))
    assert not (tmp_path / "new" / "store.json").exists(), "a catalogue never names what is not there"


def test_a_half_written_file_is_written_again(full: Store, other: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "blobs").mkdir(parents=True)
    (out / "blobs" / full.blobs.path(full.resolve("base").sha256).name).write_bytes(b"half")
    push(full, str(out))
    assert len(pull(other, str(out)).added) == 3


def listed(**changes: object) -> dict[str, object]:
    version = {"name": "a", "version": 1, "sha256": "0" * 64, "created": "2026-01-01T00:00:00Z"} | changes
    return {"format": 1, "versions": [version], "aliases": []}


@pytest.mark.parametrize(
    "catalogue",
    [
        "no json",
        "[]",
        json.dumps({"format": 2, "versions": []}),
        json.dumps({"format": 1, "surprise": 1}),
        *(
            json.dumps(listed(**changes))
            for changes in (
                {"name": "../a"}, {"name": "A"}, {"name": "a\n"}, {"version": 0}, {"version": "1"},
                {"sha256": "../../etc/passwd"},
                {"created": "yesterday"}, {"path": "/etc"}, {"note": "x" * 5000},
                {"parents": [{"relation": "theft", "label": "x", "sha256": ""}]},
            )
        ),
        json.dumps(listed() | {"aliases": [{"name": "a", "alias": "3", "version": 1}]}),
    ],
)  # fmt: skip
def test_a_catalogue_from_outside_is_checked_before_it_is_used(other: Store, tmp_path: Path, catalogue: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "store.json").write_text(catalogue)
    with pytest.raises(SoftpromptError, match="SP-E617"):
        pull(other, str(tmp_path / "out"))
    assert other.list() == []


def test_a_file_that_is_no_prompt_is_not_taken_though_its_hash_is_right(other: Store, tmp_path: Path) -> None:
    from softprompt.store.blobs import digest

    data = b"\x80\x04 a pickle"
    (tmp_path / "out" / "blobs").mkdir(parents=True)
    (tmp_path / "out" / "blobs" / f"{digest(data)}.safetensors").write_bytes(data)
    (tmp_path / "out" / "store.json").write_text(json.dumps(listed(sha256=digest(data))))
    with pytest.raises(ArtifactError, match="SP-E303"):
        pull(other, str(tmp_path / "out"))
    assert other.list() == []
    assert list(other.blobs.listed()) == []


@pytest.mark.parametrize("url", ["nothing://x", "memory://empty/place", "/nowhere/at/all", "s3://"])
def test_a_place_that_is_not_there_is_an_error_of_ours(other: Store, url: str) -> None:
    with pytest.raises(SoftpromptError, match="SP-E617"):
        pull(other, url)


def test_passwords_are_not_repeated() -> None:
    from softprompt.store.exchange import Shelf

    with pytest.raises(SoftpromptError) as caught:
        Shelf("nothing://anna:secret@host/x")
    assert "secret" not in str(caught.value)


def test_one_prompt_is_exported_as_a_file(full: Store, tmp_path: Path) -> None:
    export_file(full, tmp_path / "one.safetensors", "reviews@1")
    assert (tmp_path / "one.safetensors").read_bytes() == full.path("reviews@1").read_bytes()

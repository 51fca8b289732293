"""A name has versions that never change; aliases move between them; what is gone says so."""

import errno
import json
import os
import sqlite3
import threading
from pathlib import Path

import pytest
from tiny_prompts import artifact, write

from softprompt import container
from softprompt.errors import ArtifactError, SoftpromptError
from softprompt.store import Store
from softprompt.store.blobs import digest


def test_versions_count_up_and_a_name_alone_is_the_newest(store: Store, tmp_path: Path) -> None:
    files = [write(tmp_path, seed) for seed in range(3)]
    published = [store.publish(path, "sentiment") for path in files]
    assert [(one.entry.reference, one.new) for one in published] == [(f"sentiment@{n}", True) for n in (1, 2, 3)]
    assert store.resolve("sentiment").version == 3
    assert store.resolve("sentiment@latest").version == 3
    for number, path in enumerate(files, 1):
        assert store.path(f"sentiment@{number}").read_bytes() == path.read_bytes()
    assert store.load("store:sentiment@2").tensors["method.prompt"].equal(artifact(1).tensors["method.prompt"])


def test_the_same_content_is_the_same_version_of_a_name_and_another_name_shares_the_file(
    store: Store, tmp_path: Path
) -> None:
    first, second = write(tmp_path, 0), write(tmp_path, 1)
    store.publish(first, "a")
    store.publish(second, "a")
    again = store.publish(first, "a", aliases=["prod"])
    assert (again.entry.version, again.new, again.entry.aliases) == (1, False, ("prod",))
    assert store.resolve("a").version == 2
    assert store.publish(first, "b").entry.version == 1
    assert len(list(store.blobs.listed())) == 2


def test_the_folder_of_a_run_is_published_with_the_prompt_that_it_started_from(store: Store, tmp_path: Path) -> None:
    source = write(tmp_path, 0)
    run = write(tmp_path / "run", 1, parents=(source.name,)).rename(tmp_path / "run" / "prompt.safetensors").parent
    (run / "recipe.yaml").write_text(
        f"data: {{train: x.csv}}\ninit: {{kind: prompt, source: {json.dumps(str(source))}}}\n"
    )
    store.publish(run, "child")
    (parent,) = store.family("child")[0]
    assert (parent.relation, parent.label, parent.sha256) == ("warm-start", source.name, digest(source.read_bytes()))
    store.publish(source, "base")  # only now: it is known by its content
    assert [one.label for one in store.family("child")[0]] == ["base@1"]
    assert [one.reference for one in store.family("base")[1]] == ["child@1"]


def test_a_start_that_was_made_of_prompts_passes_them_on(store: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "sources").mkdir(parents=True)
    sources = [write(run / "sources", seed) for seed in (0, 1)]
    mean = write(run / "sources", 2, parents=tuple(source.name for source in sources))
    child = write(run, 3, parents=(mean.name,)).rename(run / "prompt.safetensors")
    store.publish(child, "child")
    for source, name in zip(sources, ("a", "b"), strict=True):
        store.publish(source, name)
    assert [one.label for one in store.family("child")[0]] == ["a@1", "b@1", mean.name]


def test_a_parent_that_only_the_card_names_is_kept_by_that_name(store: Store, tmp_path: Path) -> None:
    store.publish(write(tmp_path, 1, parents=("old.safetensors",)), "child")
    assert store.family("child")[0] == [("warm-start", "old.safetensors", "")]


@pytest.mark.parametrize("damage", ["flip", "cut", "pickle", "nan", "card", "empty"])
def test_what_is_no_intact_prompt_is_not_published(store: Store, tmp_path: Path, damage: str) -> None:
    path = write(tmp_path, 0)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
    made = {"flip": bytes(data), "cut": bytes(data[:-3]), "pickle": b"\x80\x04" + bytes(data), "empty": b""}
    if damage == "nan":
        data[-4:] = b"\xff\xff\xff\xff"
        made["nan"] = bytes(data)
    if damage == "card":
        made["card"] = container.pack(artifact(0).tensors, "{}")
    path.write_bytes(made[damage])
    with pytest.raises(ArtifactError) as caught:
        store.publish(path, "sentiment")
    assert caught.value.where == str(path)
    assert store.list() == []
    assert not store.blobs.folder.exists() or list(store.blobs.listed()) == []


def test_a_file_that_is_replaced_while_it_is_read_is_not_published(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from softprompt.artifact import Artifact

    path, other = write(tmp_path, 0), write(tmp_path, 1)
    load, calls = Artifact.load, []

    def replaced(given: Path) -> Artifact:
        found = load(given)
        if not calls:
            os.replace(other, path)
        calls.append(given)
        return found

    monkeypatch.setattr(Artifact, "load", replaced)
    with pytest.raises(ArtifactError, match="SP-E308"):
        store.publish(path, "a")


def test_an_alias_moves_and_rolls_back_as_often_as_it_was_moved(store: Store, tmp_path: Path) -> None:
    for seed in range(3):
        store.publish(write(tmp_path, seed), "s")
    for version in (1, 2, 3, 3):
        store.alias(f"s@{version}", "prod")
    assert store.resolve("s@prod").version == 3
    assert [store.rollback("s@prod").version for _ in range(2)] == [2, 1]
    with pytest.raises(SoftpromptError, match="SP-E616"):
        store.rollback("s@prod")
    assert store.resolve("s@prod").version == 1
    store.alias("s@3", "prod")
    assert store.rollback("s@prod").version == 1


def test_a_rollback_passes_over_removed_versions_and_undoes_a_deletion(store: Store, tmp_path: Path) -> None:
    for seed in range(3):
        store.publish(write(tmp_path, seed), "s", aliases=["prod"])
    store.remove("s@2")
    assert store.rollback("s@prod").version == 1
    assert store.unalias("s@prod").version == 1
    with pytest.raises(SoftpromptError, match="SP-E612"):
        store.resolve("s@prod")
    assert store.rollback("s@prod").version == 1


def test_a_version_with_an_alias_is_not_removed(store: Store, tmp_path: Path) -> None:
    for seed in range(2):
        store.publish(write(tmp_path, seed), "s")
    store.alias("s@1", "prod")
    for reference in ("s@1", "s", "s@prod"):
        with pytest.raises(SoftpromptError, match=r"SP-E614.*alias s@prod --delete"):
            store.remove(reference)
    assert [entry.version for entry in store.list(every=True)] == [1, 2]


def test_what_was_removed_is_not_found_says_when_and_comes_back(store: Store, tmp_path: Path) -> None:
    first, second = write(tmp_path, 0), write(tmp_path, 1)
    for path in (first, second):
        store.publish(path, "s")
    assert [entry.reference for entry in store.remove("s@2")] == ["s@2"]
    assert store.resolve("s").version == 1
    with pytest.raises(SoftpromptError, match=r"SP-E612.*s@2, which was removed on 20.*softprompt store restore s@2"):
        store.load("s@2")
    assert [entry.reference for entry in store.list(removed=True)] == ["s@2"]
    assert store.publish(second, "s").entry.version == 3, "a number never comes back with another meaning"
    assert store.restore("s@2").version == 2
    store.remove("s")
    assert store.list() == []
    with pytest.raises(SoftpromptError, match=r"SP-E612.*removed"):
        store.resolve("s")


def test_what_is_not_there_is_refused_with_what_is(store: Store, tmp_path: Path) -> None:
    store.publish(write(tmp_path, 0), "sentiment", aliases=["prod"])
    for reference, hint in (
        ("sentimnt", "did you mean 'sentiment'"),
        ("sentiment@prd", "did you mean 'prod'"),
        ("sentiment@2", r"versions \(1\) or aliases \(prod\)"),
    ):
        with pytest.raises(SoftpromptError, match=f"SP-E612.*{hint}"):
            store.load(reference)
    with pytest.raises(SoftpromptError, match="SP-E612"):
        store.restore("sentiment")
    with pytest.raises(SoftpromptError, match="SP-E612"):
        store.publish(write(tmp_path, 1), "child", parents=["nobody@1"])
    with pytest.raises(SoftpromptError, match=r"SP-E611.*did you mean 'transfer'"):
        store.publish(write(tmp_path, 1), "child", parents=["transfr=sentiment"])
    assert [entry.name for entry in store.list()] == ["sentiment"]


@pytest.fixture
def library(store: Store, tmp_path: Path) -> Store:
    store.publish(write(tmp_path, 0, accuracy=0.7), "base", note="for Anna")
    store.publish(write(tmp_path, 1, accuracy=0.8, method="prefix"), "reviews", parents=["transfer=base"])
    store.publish(write(tmp_path, 2, accuracy=0.9, method="prefix"), "reviews", parents=["compression=reviews@1"])
    return store


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ({}, ["base@1", "reviews@2"]),
        ({"every": True}, ["base@1", "reviews@1", "reviews@2"]),
        ({"text": "prefix", "every": True}, ["reviews@1", "reviews@2"]),
        ({"text": "anna CLASSIFICATION"}, ["base@1"]),
        ({"text": "base prefix"}, []),
        ({"where": ["accuracy>=0.8"], "every": True}, ["reviews@1", "reviews@2"]),
        ({"where": ["accuracy>0.8", "mcc<0.85"]}, ["reviews@2"]),
        ({"where": ["method.name=prefix"]}, ["reviews@2"]),
        ({"where": ["method.name!=prefix", "recipe.optim.lr=0.3", "backbone.layers<=2"]}, ["base@1"]),
        ({"where": ["template.text={soft}{text} It was {mask}"]}, ["base@1", "reviews@2"]),
        ({"parent": "base", "every": True}, ["reviews@1", "reviews@2"]),
        ({"parent": "reviews@1", "every": True}, ["reviews@2"]),
    ],
)
def test_card_lineage_and_metrics_are_searched(library: Store, search: dict, found: list[str]) -> None:
    assert [entry.reference for entry in library.list(**search)] == found


@pytest.mark.parametrize("where", ["acuracy>0.5", "method.nam=x", "accuracy", "accuracy=high", "=3", "a b=3", "x.y="])
def test_a_filter_that_could_find_nothing_is_refused(library: Store, where: str) -> None:
    with pytest.raises(SoftpromptError, match="SP-E615"):
        library.list(where=[where])


def test_a_report_from_elsewhere_cannot_break_the_index(store: Store, tmp_path: Path) -> None:
    for seed, scores in enumerate(
        [None, "x", [1, {"name": 3}, {"name": "f1", "value": "high"}], [{"name": "f1", "value": 1}] * 2]
    ):
        made = artifact(seed)
        made.card.report["scores"] = scores
        made.save(tmp_path / f"{seed}.safetensors")
        store.publish(tmp_path / f"{seed}.safetensors", f"p{seed}")
    assert [entry.value for entry in store.list()] == [None, None, None, 1.0]


def test_the_hash_is_checked_on_every_load(store: Store, tmp_path: Path) -> None:
    store.publish(write(tmp_path, 0), "s")
    path = store.path("s")
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(write(tmp_path, 1).read_bytes())  # an intact prompt, but another one
    for use in (store.load, store.path):
        with pytest.raises(SoftpromptError, match=r"SP-E613.*store repair"):
            use("s")
    path.write_bytes(good)
    store.load("s")
    path.unlink()
    with pytest.raises(SoftpromptError, match="SP-E613"):
        store.load("s")


def test_publishing_again_mends_a_damaged_file(store: Store, tmp_path: Path) -> None:
    source = write(tmp_path, 0)
    store.publish(source, "s")
    path = store.path("s")
    assert not path.stat().st_mode & 0o222, "a file of the store is read-only"
    path.chmod(0o644)
    path.write_bytes(b"")
    assert not store.publish(source, "s").new
    store.load("s")


def test_threads_share_a_store(store: Store, tmp_path: Path) -> None:
    files = [write(tmp_path, seed) for seed in range(4)]
    errors: list[BaseException] = []

    def work(path: Path) -> None:
        try:
            store.publish(path, "s")
            store.load("s")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(path,)) for path in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [entry.version for entry in store.list(every=True)] == [1, 2, 3, 4]


def test_a_failed_publish_leaves_no_version(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softprompt.store.store.move", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.publish(write(tmp_path, 0), "s", aliases=["prod"])
    monkeypatch.undo()
    assert store.list(every=True) == []
    assert store.publish(write(tmp_path, 0), "s").entry.version == 1


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace", "chmod"])
def test_a_full_disk_costs_no_version_and_no_name(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    first, second = write(tmp_path, 0), write(tmp_path, 1)
    store.publish(first, "s")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"os.{call}", full)
        if call == "chmod":  # a file system without modes
            store.publish(second, "s")
        else:
            with pytest.raises(SoftpromptError):
                store.publish(second, "s")
    assert store.publish(second, "s").entry.version == 2
    assert [path.suffix for path in store.blobs.folder.iterdir()] == [".safetensors"] * 2
    store.load("s@1")


def test_the_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPT_STORE", str(tmp_path / "there"))
    assert Store().folder == tmp_path / "there"
    assert Store(tmp_path / "given").folder == tmp_path / "given"
    monkeypatch.delenv("SOFTPROMPT_STORE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store().folder == tmp_path / ".softprompt" / "store"


def test_a_store_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SoftpromptError, match="SP-E610"):
        Store(tmp_path / "file").list()
    (tmp_path / "odd" / "blobs").mkdir(parents=True)
    (tmp_path / "odd" / "index.db").write_bytes(b"no database at all, but long enough to be one" * 40)
    with pytest.raises(SoftpromptError, match="SP-E618"):
        Store(tmp_path / "odd").list()
    new = Store(tmp_path / "new")
    new.list()
    with sqlite3.connect(tmp_path / "new" / "index.db") as index:
        index.execute("PRAGMA user_version=2")
    with pytest.raises(SoftpromptError, match=r"SP-E618.*update softprompt"):
        Store(tmp_path / "new").list()

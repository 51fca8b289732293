"""Names are a small alphabet, references say one thing, and all else is refused with the rule."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.errors import SoftpromptError
from softprompt.store.names import Reference, check_alias, check_name, is_reference, parse

FIRST, LATER = string.ascii_lowercase + string.digits, string.ascii_lowercase + string.digits + "._-"
names = st.builds(str.__add__, st.sampled_from(FIRST), st.text(LATER, max_size=63))
aliases = st.builds(str.__add__, st.sampled_from(string.ascii_lowercase), st.text(LATER, max_size=63)).filter(
    lambda alias: alias != "latest"
)
versions = st.integers(1, 999_999_999)
references = (
    st.builds(Reference, names)
    | st.builds(Reference, names, versions)
    | st.builds(lambda name, alias: Reference(name, alias=alias), names, aliases)
)


@given(references)
def test_a_reference_reads_as_it_is_written(reference: Reference) -> None:
    assert parse(str(reference)) == reference
    assert parse(f"store:{reference}") == reference
    assert is_reference(f"store:{reference}")
    assert is_reference(str(reference)) == ("@" in str(reference))


@given(names)
def test_latest_is_what_a_name_alone_means(name: str) -> None:
    assert parse(f"{name}@latest") == parse(name) == Reference(name)


@given(st.text() | st.text(LATER + "@:\n", max_size=8))
def test_any_other_text_is_refused_with_a_code(text: str) -> None:
    if re.fullmatch(r"(store:)?[a-z0-9][a-z0-9._-]{0,63}(@([1-9][0-9]{0,8}|[a-z][a-z0-9._-]{0,63}))?", text):
        bare = text.removeprefix("store:")
        assert str(parse(text)) == bare.removesuffix("@latest")
        return
    with pytest.raises(SoftpromptError, match="SP-E611") as caught:
        parse(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "-x", "_x", ".x", "A", "a b", "a/b", "a\\..\\b", "/abs", "%2e%2e", "a\0", "a\n", "é", "а", "a" * 65,
     "a@b", "a:b", "CON", "‮a", "~", "a*"],
)  # fmt: skip
def test_a_name_that_could_be_more_than_a_name_is_refused(name: str) -> None:
    with pytest.raises(SoftpromptError, match="SP-E611"):
        check_name(name)


@pytest.mark.parametrize(
    "text", ["a@", "a@0", "a@01", "a@-1", "a@1.5", "a@3@4", "a@Prod", "a@1234567890", "@prod", "@"]
)
def test_a_version_counts_from_one_and_an_alias_begins_with_a_letter(text: str) -> None:
    with pytest.raises(SoftpromptError, match="SP-E611"):
        parse(text)


@pytest.mark.parametrize("alias", ["latest", "3", "", "Prod", "a b"])
def test_what_would_be_a_version_is_no_alias(alias: str) -> None:
    with pytest.raises(SoftpromptError, match="SP-E611"):
        check_alias(alias)


@pytest.mark.parametrize("path", ["prompt.safetensors", "runs/a@b", "./a@b", "sentiment", "C:\\a@b", "A@b"])
def test_a_path_is_not_taken_for_a_reference(path: str) -> None:
    assert not is_reference(path)

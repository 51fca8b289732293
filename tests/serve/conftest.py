"""A running server on a free port, over the small engine."""

import pytest
from serve.running import running, small_shelf
from serve.small_engine import SmallEngine


@pytest.fixture(scope="module")
def server():
    with running(SmallEngine(), small_shelf()) as made:
        yield made


@pytest.fixture
def start():
    """Start a server of its own: `with start(pause=0.1) as server`."""

    def begin(*, pause=0.0, room=64, shelf=None, **options):
        return running(SmallEngine(pause, room), shelf or small_shelf(), **options)

    return begin

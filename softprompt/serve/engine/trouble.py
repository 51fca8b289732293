"""How requests fail."""

from softprompt.serve.contract import ServeError


def queue_full(count: int) -> ServeError:
    """The error for a request that the queue has no room for."""
    found = f"{count} requests waiting"
    return ServeError("SP-E702", found, "room in the queue", "try again later", trouble="queue_full")


def not_finite() -> ServeError:
    """The error for a row whose output is NaN: it is that row's alone."""
    return ServeError(
        "SP-E705",
        "an answer that is not finite",
        "numbers",
        "train the prompt again, or serve it with another number type",
        trouble="not_finite",
    )


def draining() -> ServeError:
    """The error for requests that come while the engine is closing."""
    return ServeError("SP-E703", "a request", "none: the server is closing", "ask another server", trouble="draining")


def cancelled() -> ServeError:
    """The end of a request that was cancelled."""
    return ServeError("SP-E707", "a request that was cancelled", "its end", "send it again", trouble="cancelled")


def internal(error: Exception) -> ServeError:
    """The error for a defect of ours; what it says stays in the log."""
    found = f"a defect in the engine ({type(error).__name__})"
    return ServeError("SP-E900", found, "an answer", "see the server's log, and report it", trouble="internal")

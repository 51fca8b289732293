"""vLLM started on a backbone, and ended again. The only file that imports vLLM."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from importlib.util import find_spec
from multiprocessing import resource_tracker
from threading import Thread
from typing import Any, TypeVar

from softprompt.backbones import load_backbone
from softprompt.backbones.embedded import locate
from softprompt.embeds import check_family, refused
from softprompt.errors import RecipeError, SoftpromptError, near
from softprompt.serve.engine.limits import Limits
from softprompt.serve.vllm.engine import Vllm

T = TypeVar("T")
# What vLLM reads of the environment, where a user has not set it.
SETTINGS = {
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # standard output is ours
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",  # a server of ours tells nobody that it runs
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of a process whose torch has threads may hang
}


@contextmanager
def opened(
    wanted: Mapping[str, Any], limits: Limits, drain: float, options: Mapping[str, Any] | None = None
) -> Iterator[Vllm]:
    """An engine over vLLM with a backbone, the arguments of `load_backbone`; `options` are more for `AsyncEngineArgs`.

    Raises `RecipeError` SP-E845 without vLLM, SP-E846 for an option that it does not have, `Unsupported` SP-E429 for
    a backbone that it is not served with, `SoftpromptError` SP-E847 where it does not start.
    """
    if find_spec("vllm") is None:
        raise absent("no package vllm")
    for key in ("adapter", "quantize"):
        if wanted.get(key) not in (None, "none"):
            raise refused(f"a backbone with backbone.{key}={wanted[key]}", "a model's own weights")
    # Ours stays on the CPU: vLLM takes the memory of the device.
    backbone = load_backbone(**wanted, device="cpu")
    check_family(backbone)
    given = {
        "model": locate(backbone.name),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "enable_prompt_embeds": True,
        "max_num_seqs": limits.rows,
        "shutdown_timeout": int(drain),  # where a SIGTERM reaches its processes as well as ours
    }
    made = Vllm(backbone, *started(given, options or {}), limits)
    try:
        yield made
    finally:
        made.close(drain=False)


def started(given: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Any, Any]:
    """An `AsyncLLM`, and what makes `SamplingParams` for it."""
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    try:
        from vllm import SamplingParams  # type: ignore[import-not-found]
        from vllm.engine.arg_utils import AsyncEngineArgs  # type: ignore[import-not-found]
        from vllm.sampling_params import RequestOutputKind  # type: ignore[import-not-found]
        from vllm.v1.engine.async_llm import AsyncLLM  # type: ignore[import-not-found]
    except ImportError as error:
        raise absent(f"a vllm package that cannot be imported ({error})"[:300]) from error
    check_options(options, [field.name for field in fields(AsyncEngineArgs)], given)
    try:
        args = AsyncEngineArgs(**{"disable_log_stats": True, **options, **given})
        engine = aside(lambda: AsyncLLM.from_engine_args(args))
    except (RuntimeError, ValueError, TypeError, OSError, ImportError) as error:
        found = f"a vLLM that does not start: {type(error).__name__}: {error}".splitlines()[0][:300]
        do = "see what it wrote above; --engine-option NAME=VALUE sets what it takes"
        raise SoftpromptError("SP-E847", found, "one that does", do) from error
    return engine, partial(SamplingParams, output_kind=RequestOutputKind.DELTA)


def aside(job: Callable[[], T]) -> T:
    """The result of a job in a thread without Ctrl-C; so are the processes that it starts.

    A terminal sends Ctrl-C to vLLM's processes too, which would end before the answers that we drain.
    """
    made: Future[T] = Future()

    def run() -> None:
        resource_tracker.ensure_running()  # where it starts later, it lifts the block
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            made.set_result(job())
        except BaseException as error:
            made.set_exception(error)

    Thread(target=run, name="vllm-start", daemon=True).start()
    return made.result()


def check_options(options: Mapping[str, Any], known: list[str], ours: Mapping[str, Any]) -> None:
    """Raise `RecipeError` SP-E846 for an option that vLLM does not have, and for those that are set here."""
    for name in options:
        if name not in known:
            found, expected = f"--engine-option {name[:80]}{near(name, known)}", "an option of vLLM's engine"
            raise RecipeError("SP-E846", found, expected, "correct it; vllm serve --help lists them with dashes")
        if name in ours or name in CODE:
            expected = f"none of {', '.join([*ours, *CODE])}"
            raise RecipeError("SP-E846", f"--engine-option {name}", expected, "leave it out; --rows is max_num_seqs")


CODE = ("trust_remote_code",)  # what a model's files say is never run here


def absent(found: str) -> RecipeError:
    """The error for an environment without a vLLM that works."""
    do = (
        "pip install vllm, into an environment of its own together with softprompt[serve], since it pins other versions"
    )
    return RecipeError("SP-E845", found, "vLLM, for --engine vllm", do)

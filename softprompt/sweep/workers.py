"""Units of a sweep on the workers of a Ray cluster: a unit is a group of prompts that share passes, in its own folders.

A unit does what it would do here, with as many threads, so a sweep ends with the same bits. The worker that takes it
reads the sweep's own folder, which all workers must see. A unit whose worker dies is taken by another, which goes on
from the states that are there. Beside this, `serve/cluster` alone knows of Ray.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from softprompt.errors import RecipeError, SoftpromptError, TrainingError
from softprompt.run import Event, Listener, Stopped, stopping
from softprompt.sweep import Then, Unit, elsewhere, manifest, train_unit

AGAIN = 3  # times a unit is taken up again after its worker died
EVERY = 0.25  # seconds between what a unit says of its passes
WAIT = 0.25  # seconds between looks at what the units say
PATIENCE = 5.0  # seconds for a cluster to answer at all
TOLD = ("dev", "note", "done", "pass")  # events that travel: plain values and reports


@contextmanager
def on_ray(address: str | None = None) -> Iterator[None]:
    """Within, units of sweeps run on the Ray cluster at `address`, or on one of this machine's cores where None.

    Raises `RecipeError` where Ray is not installed or does not answer.
    """
    ray = imported()
    before = ray.is_initialized()
    if not before:
        connect(ray, address)
    token = elsewhere.set(dispatch)
    try:
        yield
    finally:
        elsewhere.reset(token)
        if not before:
            ray.shutdown()


def imported() -> Any:
    """Ray, or an error that says how to get it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it calls home
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # units without a GPU keep the caller's devices
    try:
        import ray
    except ImportError as error:
        found, do = "no ray package", "pip install 'softprompt[ray]', or leave out --on"
        raise RecipeError("SP-E822", found, "Ray, for --on ray", do) from error
    return ray


def connect(ray: Any, address: str | None) -> None:
    """Join the cluster at an address, or start one; raises `RecipeError` where nobody answers there."""
    own = {} if address else {"include_dashboard": False}  # a cluster that runs has its own mind about that
    host, colon, port = (address or "").rpartition("://")[2].rpartition(":")
    try:
        if colon:  # Ray itself would go on trying for minutes
            socket.create_connection((host, int(port)), timeout=PATIENCE).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except (OSError, ValueError, RuntimeError) as error:
        found, do = f"no Ray cluster at {address}: {error}".splitlines()[0][:200], "start one with `ray start --head`"
        raise RecipeError("SP-E823", found, "the address of a running cluster", do) from error


def dispatch(units: list[Unit], listen: Listener, then: Then) -> None:
    """Run every unit on a worker, and what `then` makes of one that is done.

    Raises the error of the first unit that fails, and `Stopped` after a signal.
    """
    import ray
    from ray.util.queue import Queue

    events = Queue(actor_options={"num_cpus": 0})
    over, waiting = Over(listen), {}
    with stopping() as stop:
        try:
            for unit in units:
                waiting[send(unit, events, over)] = unit
            while waiting:
                done, _ = ray.wait(list(waiting), timeout=WAIT)
                over.hear(events)
                for one in done:
                    unit = waiting.pop(one)
                    finish(one, unit.names)
                    waiting |= {send(new, events, over): new for new in then(unit)}
                if stop:
                    raise Stopped(128 + stop[0])
        finally:  # on a cluster that goes on, units would too, and write beside whoever resumes
            for one in waiting:
                ray.cancel(one, force=True)
    over.hear(events)


def send(unit: Unit, events: Any, over: "Over") -> Any:
    """Give a unit to the cluster; raises `RecipeError` where no machine has room for it."""
    import ray

    threads = (manifest(unit.place) or {})["threads"]
    check_room(ray.nodes(), threads)
    needs = {"num_cpus": threads, "num_gpus": min(1, ray.cluster_resources().get("GPU", 0))}
    over.units += 1
    remote = ray.remote(**needs, max_retries=AGAIN)(work)
    return remote.remote(str(unit.place.resolve()), unit.names, events)


def check_room(nodes: list[dict[str, Any]], threads: int) -> None:
    """Raise `RecipeError` where no machine has as many cores as a unit has threads: Ray would wait for one for ever."""
    most = max((node["Resources"].get("CPU", 0) for node in nodes if node["Alive"]), default=0)
    if most < threads:
        found, expected = f"{most:g} cores on the largest machine of the cluster", f"{threads}, one for every thread"
        raise RecipeError("SP-E823", found, expected, "set train.threads, or `ray start` with more --num-cpus")


def finish(one: Any, group: list[str]) -> None:
    """The end of a unit; raises what ended it."""
    import ray

    try:
        error = ray.get(one)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as crash:
        found, do = f"a worker that died {AGAIN + 1} times over {', '.join(group)}", "see the logs of Ray; then repeat"
        raise TrainingError("SP-E824", found, "workers that live, with memory for a unit", do) from crash
    if error is not None:
        raise SoftpromptError(error["code"], error["found"], error["expected"], error["do"], where=error["where"])


def work(folder: str, names: list[str], events: Any) -> dict[str, Any] | None:
    """What a worker does with a unit; the error that ended it, as plain values."""
    last = 0.0

    def tell(event: Event) -> None:
        nonlocal last
        often = event["event"] == "pass" and time.monotonic() - last < EVERY and event["step"] < event["total"]
        if event["event"] in TOLD and not often:
            last = time.monotonic()
            with suppress(Exception):  # nobody listens any more: the work goes on
                events.put_nowait((f"{folder}/{names[0]}", os.getpid(), event))

    try:
        train_unit(Unit(Path(folder), names), tell)
    except SoftpromptError as error:
        return error.as_dict()
    return None


class Over:
    """What all units say, as one listener hears it: passes are added up over the units.

    Events carry the process that they come from, and their unit: the folder of its first member.
    """

    def __init__(self, listen: Listener) -> None:
        self.listen = listen
        self.units = 0
        self.passes: dict[str, Event] = {}  # the last pass of every unit

    def hear(self, events: Any) -> None:
        """Pass on what has come."""
        for unit, process, event in events.get_nowait_batch(events.qsize()):
            if event["event"] == "pass":
                self.passes[unit] = event
                event = self.added()
            self.listen(event | {"process": process, "unit": unit})

    def added(self) -> Event:
        """One pass that stands for the last of every unit; units that were not heard of are thought as the longest."""
        last = list(self.passes.values())
        totals = [event["total"] for event in last]
        total = sum(totals) + max(totals) * (self.units - len(last))
        summed = {key: sum(event[key] for event in last) for key in ("step", "tokens", "prompts")}
        loss = sum(event["loss"] * event["prompts"] for event in last) / summed["prompts"]
        seconds = max(event["seconds"] for event in last)
        return {"event": "pass", "total": total, "loss": loss, "seconds": seconds, **summed}


__all__ = ["on_ray"]

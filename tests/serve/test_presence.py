"""An answer ends when its client goes, when its time is over, or by itself; nothing of it is left then."""

import asyncio

import pytest

from softprompt.serve.http.presence import Presence, watched
from softprompt.serve.http.refusals import Refusal


async def asked(presence, seconds=5.0, *, pause=5.0, ends=None):
    async def job():
        try:
            await asyncio.sleep(pause)
        finally:
            (ends if ends is not None else []).append("ended")
        return "answer"

    return await watched(job(), presence, seconds)


def test_a_client_that_goes_ends_the_job_where_it_waits():
    async def run():
        presence, ends = Presence(), []
        asyncio.get_running_loop().call_later(0.02, presence.leave)
        with pytest.raises(Refusal) as caught:
            await asked(presence, None, ends=ends)
        assert (caught.value.status, ends) == (499, ["ended"])
        await asyncio.sleep(0)  # what was cancelled is the job, not what comes after it
        with pytest.raises(Refusal) as caught:
            await asked(presence, ends=ends)
        assert (caught.value.status, ends) == (499, ["ended"]), "a client that had gone before: nothing begins"

    asyncio.run(run())


def test_time_that_is_over_ends_the_job():
    async def run():
        with pytest.raises(Refusal) as caught:
            await asked(Presence(), 0.02)
        assert (caught.value.status, caught.value.message) == (504, "no answer within 0.02 seconds")

    asyncio.run(run())


def test_a_client_that_goes_after_the_answer_cancels_nothing():
    async def run():
        presence = Presence()
        assert await asked(presence, 0.05, pause=0) == "answer"
        presence.leave()
        await asyncio.sleep(0.1)

    asyncio.run(run())


def test_a_task_that_is_cancelled_from_outside_is_cancelled():
    async def run():
        ends = []
        task = asyncio.create_task(asked(Presence(), ends=ends))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ends == ["ended"]

    asyncio.run(run())


def test_an_error_of_the_job_is_its_own():
    async def fails():
        raise TimeoutError("of the job")

    async def run():
        with pytest.raises(TimeoutError, match="of the job"):
            await watched(fails(), Presence(), 5.0)

    asyncio.run(run())

"""Which row has which slot of the cache: rows that write have the first ones, where one product reads them all."""

from softprompt.serve.engine.cache import Cache
from softprompt.serve.engine.work import Job


class Slots:
    """The slots of a cache and the rows in them."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.held: list[Job | None] = [None] * cache.slots

    @property
    def left(self) -> int:
        """How many are free."""
        return self.held.count(None)

    def jobs(self) -> list[Job]:
        """The rows that have a slot."""
        return [job for job in self.held if job is not None]

    def give(self, job: Job) -> None:
        """A free slot for a row."""
        job.slot = self.held.index(None)
        self.held[job.slot] = job

    def free(self, job: Job, *, poisoned: bool) -> None:
        """Take a row's slot back; after an error it is zeroed, because NaN would outlive the row."""
        if poisoned:
            self.cache.clear(job.slot)
        self.held[job.slot] = None

    def settle(self, writing: list[Job]) -> None:
        """Move the rows that write to the first slots, and put them in that order."""
        writes = [job is not None and job in writing for job in self.held]
        for slot in range(len(writing)):
            if not writes[slot]:
                other = writes.index(True, len(writing))
                self.exchange(slot, other)
                writes[slot], writes[other] = True, False
        writing.sort(key=lambda job: job.slot)

    def exchange(self, slot: int, other: int) -> None:
        """Give `slot` to the row in `other`, and `other` to the row in `slot`, if there is one."""
        left, comes = self.held[slot], self.held[other]
        assert comes is not None
        if left is None:
            self.cache.move(other, slot, comes.done)
        else:
            self.cache.swap(slot, other, max(comes.done, left.done))
            left.slot = other
        comes.slot = slot
        self.held[slot], self.held[other] = comes, left

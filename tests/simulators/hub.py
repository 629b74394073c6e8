"""A hub that takes batches like the real one, and refuses what a test wants."""

from edge_runtime.transports.transport import Answer, Request
from vision.errors import UplinkError
from vision.events import Receipt
from vision.notes import Note
from vision.signature import HTTP_METHOD
from vision.wire import decode_batch, encode_receipt, encode_refusal


class HubDouble:
    """Takes batches: idempotent, by the greatest number of each outbox.

    Attributes:
        received: numbers of the events that were new, in their order.
        by_outbox: the same as (outbox_id, number).
        answer: given in place of all rules; None for none.
        down: nobody answers.
        poison: numbers of events that it refuses.
        largest: events in a batch that it takes at most.
        posts: how often it was asked.
        notes: that were new, in their order; None refuses them, as a hub of before does.
    """

    method = HTTP_METHOD

    def __init__(self) -> None:
        self.received: list[int] = []
        self.by_outbox: set[tuple[str, int]] = set()
        self.answer: Answer | None = None
        self.down = False
        self.poison: set[int] = set()
        self.largest = 10_000
        self.posts = 0
        self.notes: list[Note] | None = []
        self._marks: dict[str, int] = {}

    def post(self, request: Request) -> Answer:
        """Answer a batch."""
        self.posts += 1
        if self.down:
            raise UplinkError("connection refused")
        if self.answer:
            return self.answer
        batch = decode_batch(request.body)
        numbers = batch.numbers
        if batch.notes and self.notes is None:
            return Answer(400, encode_refusal("batch field 'events' must be a list"))
        if len(numbers) > self.largest:
            return Answer(413, encode_refusal("too large"))
        if self.poison & set(numbers):
            return Answer(422, encode_refusal("a field I cannot take"))
        mark = self._marks.get(batch.outbox_id, 0)
        new = [number for number in numbers if number > mark]
        self._marks[batch.outbox_id] = max(mark, numbers[-1])
        if batch.notes and self.notes is not None:
            self.notes += [note for number, note in batch.notes if number > mark]
        else:
            self.received += new
            self.by_outbox |= {(batch.outbox_id, number) for number in new}
        receipt = Receipt(batch.outbox_id, self._marks[batch.outbox_id])
        return Answer(200, encode_receipt(receipt))

    def of(self, outbox_id: str) -> list[int]:
        """Return the numbers that came under this name, in order."""
        return sorted(number for outbox, number in self.by_outbox if outbox == outbox_id)

    def close(self) -> None:
        """Nothing to hang up."""

"""Who sent a request, and what it may say.

A signature is verified by the registry's keys, and what a batch says of itself is not believed: its
bin is its key's. The keys are kept in memory and read again when the registry's change number has
risen, which a running hub looks at every second. While the registry cannot be read, the keys that
are known hold.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from cluster.registry.keys import verify
from cluster.registry.model import Principal
from cluster.registry.store import Registry
from vision.enrolment import KeyRequest, proof_text
from vision.errors import AccessError, BusyError, IdentityError, StorageError, WireError
from vision.events import Batch
from vision.signature import Signed, Subject, key_id_of, read_signature
from vision.wire import bearer

log = logging.getLogger(__name__)

T = TypeVar("T")
# Questions to a registry that is slow; beyond it: 429.
_WAITING_AT_MOST = 64
# A revoked key is refused after this time at the latest.
_REFRESH_S = 1.0


class Access:
    """Identifies senders; `run` keeps its keys up to date.

    Args:
        registry: of bins and keys.
        now_utc_ms: the hub's clock.
        token: what unsigned requests must bring; None takes them without.
        require_signatures: refuse every unsigned batch.

    Attributes:
        registry: as given.
        problem: "", or why the registry cannot be read.
    """

    def __init__(
        self,
        registry: Registry,
        now_utc_ms: Callable[[], int],
        token: str | None = None,
        require_signatures: bool = False,
    ) -> None:
        self.registry = registry
        self.problem = ""
        self._now_utc_ms = now_utc_ms
        self._token = token
        self._require_signatures = require_signatures
        self._thread = ThreadPoolExecutor(1, "registry")
        self._asking = 0
        self._change = -1
        self._principals: Mapping[str, tuple[Principal, bytes]] = {}
        self._with_keys: frozenset[str] = frozenset()
        # Of bins with a new key beside the one before.
        self._newest: Mapping[str, str] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the keys again if they have changed.

        Raises:
            StorageError: the registry cannot be read; the keys that are known hold.
        """
        change = self.registry.change_number()
        if change == self._change:
            return
        principals = self.registry.principals()
        self._with_keys = self.registry.bins_with_keys()
        counts = Counter(principal.bin_id for principal, _ in principals.values())
        self._newest = {
            principal.bin_id: principal.key_id
            for principal, _ in principals.values()
            if counts[principal.bin_id] > 1
        }
        self._principals = principals
        self._change = change

    async def run(self) -> None:
        """Keep the keys up to date, for ever; cancel to stop."""
        while True:
            await asyncio.sleep(_REFRESH_S)
            try:
                await self._apart(self.refresh)
                self.problem = ""
            except StorageError as error:
                if not self.problem:
                    log.exception("registry: the keys that are known hold")
                self.problem = f"{error}; new and revoked keys are not seen"

    def identify(
        self, method: str, path: str, body: bytes, fields: Mapping[str, str]
    ) -> tuple[Principal | None, Subject]:
        """Return who signed a request, and what the signature says that it is about.

        None is whoever brings the token, or anybody where there is none.

        Raises:
            IdentityError: the token or the signature is missing or wrong.
        """
        try:
            signed = read_signature(method, path, body, fields)
        except WireError as error:
            raise IdentityError(str(error)) from error
        if signed is not None:
            return self._verified(signed), signed.subject
        if self._require_signatures:
            raise IdentityError("this hub takes signed batches only; enrol this bin")
        given = {name.lower(): value for name, value in fields.items()}.get("authorization", "")
        if self._token is not None and not hmac.compare_digest(
            given.encode(), bearer(self._token).encode()
        ):
            raise IdentityError("this hub asks for a token")
        return None, Subject()

    def _verified(self, signed: Signed) -> Principal:
        known = self._principals.get(signed.key_id)
        if known is None:
            raise IdentityError(f"key {signed.key_id} is unknown or revoked")
        principal, public_key = known
        if not verify(signed, public_key):
            raise IdentityError(f"the signature is not of key {signed.key_id}")
        return principal

    def permit(self, batch: Batch, principal: Principal | None, subject: Subject) -> None:
        """Check that a batch is the sender's own.

        Raises:
            AccessError: it is another bin's, or not what was signed.
        """
        if principal is None:
            if batch.bin_id in self._with_keys:
                raise AccessError(f"bin {batch.bin_id} has a key; its batches must be signed")
            return
        if batch.bin_id != principal.bin_id:
            raise AccessError(f"key {principal.key_id} is not one of bin {batch.bin_id}")
        numbers = [*batch.numbers, *batch.refused]
        if subject != Subject(batch.outbox_id, min(numbers), max(numbers)):
            raise AccessError("the signature is about another outbox or other numbers")

    async def settle(self, principal: Principal) -> None:
        """End the other keys of a bin that has used its newest one.

        Its events are durable: a registry that fails is no reason to refuse them.
        """
        try:
            await self._apart(lambda: self.registry.settle_key(principal, self._now_utc_ms()))
            await self._apart(self.refresh)
        except StorageError:
            log.exception("registry: the earlier keys of %s stay", principal.bin_id)

    def is_settled(self, principal: Principal) -> bool:
        """Return whether `settle` has nothing to do: this is no new key beside an earlier one."""
        return self._newest.get(principal.bin_id) != principal.key_id

    async def take_key(self, request: KeyRequest, principal: Principal | None) -> str:
        """Register a bin's new key and return its id.

        Args:
            request: of the bin.
            principal: who signed it with an earlier key; None where it brings a code.

        Raises:
            AccessError: the code or the key is refused.
            IdentityError: it has neither code nor signature, or the proof is not the key's.
            StorageError: nothing is registered.
        """
        proof = Signed(
            key_id_of(request.public_key),
            0,
            Subject(),
            proof_text(request.bin_id, request.public_key),
            request.proof,
        )
        if not verify(proof, request.public_key):
            raise IdentityError("the proof is not the new key's")
        now = self._now_utc_ms()
        register: Callable[[], str]
        if request.code:
            register = partial(
                self.registry.enrol, request.code, request.bin_id, request.public_key, now
            )
        elif principal is None:
            raise IdentityError("a new key needs a one-time code, or a signature with the last one")
        elif principal.bin_id != request.bin_id:
            raise AccessError(f"key {principal.key_id} is not one of bin {request.bin_id}")
        else:
            register = partial(self.registry.add_key, principal, request.public_key, now)
        try:
            key_id = await self._apart(register)
            await self._apart(self.refresh)
        except BusyError:
            raise
        except StorageError as error:
            # Whoever asks is not known yet: SQL and addresses are for the log.
            log.exception("registry: a key is not taken")
            raise StorageError("the registry cannot be asked now; ask later") from error
        return key_id

    async def _apart(self, ask: Callable[[], T]) -> T:
        """Ask the registry in a thread of its own: a slow one must not keep events from the disk.

        Raises:
            BusyError: too many wait for it.
        """
        if self._asking >= _WAITING_AT_MOST:
            raise BusyError("too much waits for the registry; ask later")
        self._asking += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, ask)
        finally:
            self._asking -= 1

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

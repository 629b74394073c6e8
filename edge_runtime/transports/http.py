"""HTTP or HTTPS. One POST for each batch."""

from __future__ import annotations

import re
import threading
from functools import partial

import httpx2

from edge_runtime.clock import Clock
from edge_runtime.config import HttpUplinkConfig
from edge_runtime.transports.tls import check_dates, tls_context
from edge_runtime.transports.transport import Answer, Request
from vision.addresses import without_secrets
from vision.errors import UplinkError
from vision.signature import HTTP_METHOD
from vision.wire import INGEST_PATH, MAX_ANSWER_BYTES, MEDIA_TYPE, bearer


class HttpTransport:
    """HTTP or HTTPS POST.

    Args:
        config: with `url` set.
        clock: says whether the bin knows the time; a certificate's dates are not checked by a clock
            that nobody has set.
    """

    method = HTTP_METHOD

    def __init__(self, config: HttpUplinkConfig, clock: Clock) -> None:
        headers = {}
        if config.token:
            headers["Authorization"] = bearer(config.token)
        self._hub = config.url.rstrip("/")
        self._timeout_s = config.timeout_s
        self._shown = without_secrets(f"{self._hub}{INGEST_PATH}")
        self._clock = clock
        self._tls = tls_context(config.ca)
        self._connect = partial(
            httpx2.Client, timeout=config.timeout_s, headers=headers, verify=self._tls
        )
        self._client = self._connect()

    def post(self, request: Request) -> Answer:
        """Send a request."""
        check_dates(self._tls, self._clock)
        # httpx2 limits the wait for each piece; an answer that drips a byte at a time is cut off
        # here.
        if self._client.is_closed:  # it was cut off
            self._client = self._connect()
        client = self._client
        late = threading.Event()

        def cut_off() -> None:
            late.set()
            client.close()

        patience = threading.Timer(3 * self._timeout_s, cut_off)
        patience.daemon = True
        patience.start()
        try:
            kind = MEDIA_TYPE if request.path == INGEST_PATH else "application/json"
            headers = {"Content-Type": kind, **request.fields}
            url = f"{self._hub}{request.path}"
            with client.stream("POST", url, content=request.body, headers=headers) as response:
                answer = bytearray()
                for piece in response.iter_bytes():
                    answer += piece
                    if len(answer) > MAX_ANSWER_BYTES:
                        raise UplinkError(f"{self._shown}: the answer is too long")
                asked = response.headers.get("Retry-After", "")
                seconds = int(asked) if re.fullmatch("[0-9]{1,6}", asked) else 0
                return Answer(response.status_code, bytes(answer), seconds)
        except httpx2.InvalidURL as error:
            # Its text holds what stands in the address, a password perhaps.
            raise UplinkError(f"{self._shown}: uplink.url is not a valid address") from error
        except (httpx2.HTTPError, OSError, RuntimeError) as error:  # RuntimeError: closed under us
            message = (
                "the answer comes too slowly" if late.is_set() else error or type(error).__name__
            )
            raise UplinkError(f"{self._shown}: {message}") from error
        finally:
            patience.cancel()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

"""One hub takes events into a lake, and no second one: a lock on a file in its folder."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import TextIO

from vision.errors import StorageError

# Another process may have the lake for moments: a hub that stops, an aggregation that moves what a
# stopped hub left.
CLAIM_WAIT_S = 3.0
_LOCK_NAME = ".hub.lock"


class Claim:
    """The right to take events into a lake.

    Args:
        folder: of the lake.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _LOCK_NAME
        self._file: TextIO | None = None

    def take(self) -> None:
        """Become the one hub that takes events into this lake, until `release`.

        Raises:
            StorageError: another hub is.
        """
        deadline = time.monotonic() + CLAIM_WAIT_S
        while not self.try_take():
            if time.monotonic() > deadline:
                raise StorageError(
                    f"{self._path.parent}: another hub takes events into this lake; stop it, or "
                    "name another lake"
                )
            time.sleep(0.1)

    def try_take(self) -> bool:
        """Take it if no other hub has it, and return whether it worked."""
        try:
            file = self._path.open("w")
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be opened ({error.strerror})") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._file = file
        return True

    def is_taken(self) -> bool:
        """Return whether a hub has it; changes nothing.

        Raises:
            StorageError: it cannot be found out.
        """
        try:
            with self._path.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror}") from error
        return False

    def release(self) -> None:
        """Let another hub take it."""
        if self._file is not None:
            self._file.close()
            self._file = None

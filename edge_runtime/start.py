"""What must hold before a bin opens its parts: its folder, its bundle, its log, its signals."""

from __future__ import annotations

import errno
import fcntl
import logging
import logging.handlers
import signal
import threading
from contextlib import ExitStack
from pathlib import Path

from edge_runtime import host
from edge_runtime.choose import Chosen, choose
from edge_runtime.config import SHIPPED_BUNDLES, EdgeConfig
from vision.errors import BundleError, StorageError

log = logging.getLogger(__name__)


def listen_to_signals() -> tuple[threading.Event, threading.Event]:
    """Return what SIGTERM and SIGINT set, and what SIGHUP sets.

    Outside the main thread, where Python takes no signals, nobody sets them.
    """
    stop = threading.Event()
    reload_asked = threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        signal.signal(signal.SIGHUP, lambda *_: reload_asked.set())
    return stop, reload_asked


def claim_state(state: Path, opened: ExitStack) -> None:
    """Make the state folder and hold it for this bin alone, until `opened` is closed.

    A disk that takes nothing cannot be held, and need not be: the bin serves on and writes nothing
    there.

    Raises:
        StorageError: another bin runs on it, or it cannot be made.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        file = opened.enter_context((state / ".lock").open("w"))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StorageError(
            f"state: a bin runs on {state} already; to look at it set view.port in its settings, "
            "or name another folder"
        ) from error
    except OSError as error:
        if state.is_dir() and error.errno in (errno.EROFS, errno.ENOSPC):
            log.error("state: %s cannot be written (%s)", state, error.strerror)
            return
        raise StorageError(
            f"state: {state} cannot be written ({error.strerror}); name a folder to write to"
        ) from error


def choose_bundle(config: EdgeConfig) -> tuple[Chosen, EdgeConfig, list[str]]:
    """Open the bundle, or what ships in place of a damaged one: a worn card must not close a bin.

    Returns:
        What runs; the settings that hold, so that a reload tries the other one again; and what the
        bundle that was asked for lacks.

    Raises:
        BundleError: nothing can be run.
    """
    problems: list[str] = []
    try:
        chosen = choose(config.bundle, config.threads, config.state)
    except BundleError as error:
        if config.bundle == SHIPPED_BUNDLES:
            raise
        problems.append(f"bundle: {error} What ships is run instead.")
        config = config.model_copy(update={"bundle": SHIPPED_BUNDLES})
        chosen = choose(config.bundle, config.threads, config.state)
    problems += [chosen.problem] if chosen.problem else []
    for problem in problems:
        log.error("%s", problem)
    host.give_memory_back()
    return chosen, config, problems


def log_to_file(config: EdgeConfig) -> list[str]:
    """Begin the log file that is asked for; return what keeps it from being written."""
    path = config.log.path
    if path is None:
        return []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(
            path, maxBytes=config.log.max_bytes, backupCount=config.log.files
        )
    except OSError as error:
        problem = f"log.path: {path} cannot be written ({error.strerror}); no log is kept there"
        log.error("%s", problem)
        return [problem]
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    return []

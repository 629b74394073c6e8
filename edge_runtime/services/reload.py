"""New settings while the bin runs: all or none. What does not hold leaves the bin as it was."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_runtime.choose import Chosen, choose
from edge_runtime.config import EdgeConfig
from edge_runtime.delivery import Delivery
from edge_runtime.pipeline import Pipeline
from edge_runtime.rules import load_rules
from vision.errors import BinsightError, ConfigError

log = logging.getLogger(__name__)

# These belong to what is open; all other settings can change while the bin runs.
_FIXED = ("bin_id", "state", "camera", "actuator", "outbox", "log", "view", "status_interval_s")


@dataclass(frozen=True, slots=True)
class SettingsStatus:
    """What the health file says of the settings; see `Health`."""

    settings: str
    bundle: str


class Reload:
    """Reads the settings again when it is asked to, and swaps the parts that they change.

    Args:
        config: of the bin as it runs.
        pipeline: whose parts are replaced.
        delivery: whose uplink is replaced.
        asked: set when the settings are to be read again.
        read: reads them; None ignores it.
        chosen: the bundle that runs.
        problems: settings that did not hold at the start, for people.
    """

    period_ms = 0.0

    def __init__(
        self,
        config: EdgeConfig,
        pipeline: Pipeline,
        delivery: Delivery,
        chosen: Chosen,
        problems: list[str],
        asked: threading.Event,
        read: Callable[[], EdgeConfig] | None,
    ) -> None:
        self._config = config
        self._pipeline = pipeline
        self._delivery = delivery
        self._asked = asked
        self._read = read
        self._chosen = chosen
        self._settings = "; ".join(problems) or "ok"

    def step(self, now_ms: float) -> None:
        """Read the settings again, if it was asked for."""
        if not self._asked.is_set():
            return
        self._asked.clear()
        if self._read is None:
            return
        try:
            self._use(self._read())
        except (BinsightError, OSError) as error:
            self._settings = f"the old ones hold: {error}"
            log.error("settings: %s", self._settings)

    def status(self) -> SettingsStatus:
        """Return what the health file says of the settings."""
        return SettingsStatus(self._settings, self._chosen.reason)

    def _use(self, new: EdgeConfig) -> None:
        """Make everything that is new; only when all of it is there, use it."""
        old = self._config
        parts = self._pipeline.parts
        if fixed := [name for name in _FIXED if getattr(new, name) != getattr(old, name)]:
            raise ConfigError(f"{', '.join(fixed)}: cannot change while the bin runs; restart it")
        rules = load_rules(new.rules)
        if set(rules.streams) != set(parts.rules.streams):
            raise ConfigError("rules: the new book has other streams than the lid; restart the bin")
        chosen = self._chosen
        # A form that was damaged may have been repaired.
        if (new.bundle, new.threads) != (old.bundle, old.threads) or chosen.refused:
            chosen = choose(new.bundle, new.threads, new.state)
        if self._delivery.wants_uplink(new.uplink):
            self._delivery.use_uplink(new.uplink, self._delivery.open_uplink(new.uplink))
        self._pipeline.parts = replace(
            parts,
            classifier=chosen.classifier,
            rules=rules,
            trigger=parts.trigger.with_config(new.trigger),
            max_frames_per_item=new.max_frames_per_item,
            host_power_w=new.host_power_w,
        )
        self._chosen = chosen
        self._config = new
        self._settings = chosen.problem or "ok"
        log.warning("settings: new ones hold now")

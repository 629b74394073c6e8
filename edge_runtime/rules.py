"""The rule book: which stream an item goes to here. Data, not code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from configs import CONFIG_FOLDER, StrictModel, load
from vision.decision import Decision, DecisionKind
from vision.errors import ConfigError
from vision.taxonomy import TAXONOMIES


class RuleBook(StrictModel):
    """One jurisdiction's law as a table.

    Attributes:
        id, version: written into every event.
        title, source: for people: which law, where it stands.
        taxonomy: whose labels it covers.
        streams: stream -> what people call it; mixed waste is `residual`, for the hub counts what
            is kept out of it.
        labels: label -> stream; every label of the taxonomy.
        fallback: stream of what is unsure, unknown or faulty: the residual bin.
        hazard: stream of hazards; never compacted.
    """

    id: str
    version: str
    title: str
    source: str = Field(min_length=1)
    taxonomy: str
    streams: Mapping[str, str]
    labels: Mapping[str, str]
    fallback: str
    hazard: str

    def stream(self, decision: Decision) -> str:
        """Return the stream for a decision; total."""
        if decision.kind is DecisionKind.HAZARD:
            return self.hazard
        return self.labels[decision.label] if decision.kind is DecisionKind.KNOWN else self.fallback


def load_rules(path: Path) -> RuleBook:
    """Read a rule book and check that it covers every label with a stream that it declares.

    Raises:
        ConfigError: names file, key and what is missing.
    """
    if not path.suffix and not path.exists():
        path = CONFIG_FOLDER / "rules" / f"{path}.yaml"  # the name of one that ships
    book = load(RuleBook, path)
    if book.taxonomy not in TAXONOMIES:
        raise ConfigError(
            f"{path}: taxonomy: unknown {book.taxonomy!r}; known: {', '.join(TAXONOMIES)}"
        )
    wanted = set(TAXONOMIES[book.taxonomy].labels)
    if missing := sorted(wanted - set(book.labels)):
        raise ConfigError(f"{path}: labels: no stream for {', '.join(missing)}")
    if unknown := sorted(set(book.labels) - wanted):
        raise ConfigError(f"{path}: labels: not in {book.taxonomy}: {', '.join(unknown)}")
    used = {*book.labels.values(), book.fallback, book.hazard}
    if undeclared := sorted(used - set(book.streams)):
        raise ConfigError(f"{path}: streams: used but not declared: {', '.join(undeclared)}")
    return book

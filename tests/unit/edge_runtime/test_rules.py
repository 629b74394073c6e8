"""Rule books: data that covers every label, or does not load."""

from pathlib import Path

import pytest
import yaml

from configs import CONFIG_FOLDER
from edge_runtime.rules import load_rules
from vision.decision import Decision, DecisionKind
from vision.errors import ConfigError
from vision.taxonomy import MATERIALS_1

BOOKS = sorted((CONFIG_FOLDER / "rules").glob("*.yaml"))


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)
def test_books_that_ship_give_every_decision_a_stream(path: Path) -> None:
    book = load_rules(path)
    for kind in DecisionKind:
        for label in MATERIALS_1.labels:
            assert book.stream(Decision(kind, label, "")) in book.streams
    assert book.stream(Decision(DecisionKind.UNSURE, "glass", "")) == book.fallback
    assert (
        book.stream(Decision(DecisionKind.HAZARD, "hazardous", "")) == book.hazard != book.fallback
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"labels": {"glass": "glass"}}, "no stream for cardboard"),
        ({"fallback": "moon"}, "used but not declared: moon"),
        ({"taxonomy": "materials-9"}, "unknown 'materials-9'"),
        ({"source": ""}, "source"),
        ({"colour": "blue"}, "unknown key"),
    ],
)
def test_incomplete_books_do_not_load(
    tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    document = {**yaml.safe_load(BOOKS[0].read_text()), **change}
    (tmp_path / "book.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigError, match=complaint):
        load_rules(tmp_path / "book.yaml")


def test_a_label_that_the_taxonomy_does_not_know_is_refused(tmp_path: Path) -> None:
    document = yaml.safe_load(BOOKS[0].read_text())
    document["labels"]["wood"] = document["fallback"]
    (tmp_path / "book.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigError, match="not in materials-1: wood"):
        load_rules(tmp_path / "book.yaml")

"""docs/events.md is the data dictionary that the code gives."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from vision.events import Batch, ItemEvent, Receipt

ROOT = Path(__file__).parents[2]


def test_the_data_dictionary_is_what_the_code_gives() -> None:
    """The page equals its generator's output, and no field of the wire is missing in it."""
    done = subprocess.run(
        [sys.executable, "-m", "docs.generate_events"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    page = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    assert page == done.stdout, "run: python -m docs.generate_events > docs/events.md"
    names = [field.name for contract in (ItemEvent, Batch, Receipt) for field in fields(contract)]
    assert len(names) >= 30
    assert [name for name in names if f"| `{name}` |" not in page] == []

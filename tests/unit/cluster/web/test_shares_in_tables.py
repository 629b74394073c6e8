"""Counts with shares beside them, as the API and the CSV give them."""

import pyarrow as pa

from cluster.web.csv_text import csv_text
from cluster.web.overview import with_shares


def test_shares_carry_wilson_intervals() -> None:
    table = with_shares(pa.table({"label": ["glass", "paper"], "items": [9, 1]}))
    row = table.to_pylist()[0]
    assert row["share"] == 0.9
    # Published value for 9 of 10: 0.596 to 0.982 (Brown, Cai, DasGupta 2001, by formula).
    assert (round(row["share_low"], 3), round(row["share_high"], 3)) == (0.596, 0.982)
    assert csv_text(table).splitlines()[0] == "\ufefflabel,items,share,share_low,share_high"


def test_a_missing_text_is_an_empty_cell() -> None:
    table = pa.table({"rule_book": ["a,b", None, "=1"], "items": [1, 2, 3]})
    assert csv_text(table) == '\ufeffrule_book,items\n"a,b",1\n,2\n"\'=1",3\n'

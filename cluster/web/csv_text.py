"""A table as CSV that is safe to open in a spreadsheet."""

from __future__ import annotations

import io
import unicodedata

import pyarrow as pa
from pyarrow import csv

# By it spreadsheets know UTF-8.
BYTE_ORDER_MARK = "\ufeff"
_FORMULA_SIGNS = ("=", "+", "-", "@")


def csv_text(table: pa.Table) -> str:
    """Return a table as CSV with a header; empty text for no rows.

    It begins with a byte-order mark, and no text in it is a formula to a spreadsheet: what begins
    like one gets an apostrophe in front. Texts stand in quotes.

    Source: OWASP, "CSV Injection".
    """
    if not table.num_rows:
        return ""
    for index, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            table = table.set_column(index, field, _without_formulas(table.column(index)))
    sink = io.BytesIO()
    csv.write_csv(table, sink, csv.WriteOptions(quoting_header="none"))
    return BYTE_ORDER_MARK + sink.getvalue().decode()


def _without_formulas(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    guarded = {text: _guard(text) for text in texts.unique().to_pylist() if text is not None}
    return pa.chunked_array([[guarded.get(text) for text in texts.to_pylist()]], pa.string())


def _guard(text: str) -> str:
    # Spreadsheets see through wide signs (＝) and skip what has no width.
    seen = "".join(
        sign
        for sign in unicodedata.normalize("NFKC", text)
        if unicodedata.category(sign) not in ("Cf", "Cc", "Zs")
    )
    return f"'{text}" if seen.startswith(_FORMULA_SIGNS) else text

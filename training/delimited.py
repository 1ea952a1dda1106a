"""Tables in text files, as the csv module has them: cells that need quotation marks get them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path


def format_table(rows: Iterable[Iterable[object]], delimiter: str = "\t") -> str:
    """Turn rows, the first of which names the columns, into the text of a table."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue()


def read_rows(table: Path, delimiter: str = "\t") -> list[dict[str, str]]:
    """Read what format_table wrote: each row by the columns' names.

    Raises:
        OSError: it cannot be read.
    """
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter=delimiter, restval=""))

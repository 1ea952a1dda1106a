"""docs/: what the code has, the pages tell, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clip.source import CODECS
from service.decoding import RESTART_REASONS
from service.errors import KINDS
from service.metrics import MEASURED_STAGES, STAGES, Metrics
from service.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"

#: Their defaults depend on where the service runs; the page says how.
COMPUTED = {
    "models_dir": "`models`",
    "intra_op_threads": "usable CPUs",
    "decoders": "usable CPUs",
    "spool_dir": "`har-spool-<uid>` in the system's temporary directory",
}


#: By the end of a setting's name, the longest first.
UNITS = {
    "_bytes_per_s": "bytes per second",
    "_s": "seconds",
    "_bytes": "bytes",
    "_pixels": "pixels",
}


def read_table(page: str) -> dict[str, list[str]]:
    """The rows of all tables of a page whose first cell is `code`, by that code."""
    rows = {}
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            rows[cells[0].strip("`")] = cells[1:]
    return rows


def test_every_setting_is_documented_with_its_default() -> None:
    rows = read_table("settings.md")
    assert set(rows) == {f"HAR_{name.upper()}" for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        default, unit, meaning = rows[f"HAR_{name.upper()}"]
        if name in COMPUTED:
            assert default == COMPUTED[name]
        elif field.default is None:
            assert default == "unset"
        else:
            text = f"{field.default:g}" if isinstance(field.default, float) else field.default
            text = ",".join(f"{one:g}" for one in text) if isinstance(text, tuple) else text
            text = int(text) if isinstance(text, bool) else text
            assert default == f"`{text}`"
        assert meaning.endswith(".")
        for suffix, named in UNITS.items():
            if name.endswith(suffix):
                assert unit == named
                break


def test_every_reason_to_replace_a_decoder_is_documented() -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    table = text[text.index("| decoder replaced |") :].split("\n\n")[0]
    reasons = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert reasons == list(RESTART_REASONS)


def test_every_problem_is_documented_with_its_status() -> None:
    rows = read_table("errors.md")
    assert {code: int(cells[0]) for code, cells in rows.items()} == {
        code: kind.status for code, kind in KINDS.items()
    }
    assert all(all(cells) for cells in rows.values())


def test_every_codec_is_documented() -> None:
    named = re.findall(r"`(\w+)`", read_table("errors.md")["unsupported_codec"][1])
    assert named == sorted(CODECS)


def test_every_metric_and_stage_is_documented_with_its_type_and_labels() -> None:
    rows = read_table("metrics.md")
    metrics = {name: cells for name, cells in rows.items() if name.startswith("har_")}
    collectors = [
        collector
        for collector in Metrics().registry._collector_to_names
        if getattr(collector, "_name", "").startswith("har_")
    ]
    found = {
        collector._name + ("_total" if collector._type == "counter" else ""): (
            collector._type,
            list(collector._labelnames),
        )
        for collector in collectors
    }
    assert set(metrics) == set(found)
    for name, (kind, labels) in found.items():
        assert metrics[name][0] == kind
        assert re.findall(r"`(\w+)`", metrics[name][1]) == labels
    assert set(rows) - set(metrics) == {*STAGES, *MEASURED_STAGES}


@pytest.mark.parametrize("page", ["settings.md", "errors.md", "metrics.md"])
def test_pages_name_only_settings_that_exist(page: str) -> None:
    named = set(re.findall(r"HAR_[A-Z_]+[A-Z]", (DOCS / page).read_text(encoding="utf-8")))
    assert named <= {f"HAR_{name.upper()}" for name in Settings.model_fields}

"""openapi.yaml against the running service, by schemathesis: both say the same of every request.

Some seconds here; in full, with thousands of requests for each endpoint:

    HAR_SCHEMATHESIS_EXAMPLES=2000 python -m pytest tests/service/test_schemathesis.py -s
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = int(os.environ.get("HAR_SCHEMATHESIS_EXAMPLES", "8"))
#: A service that hangs is a failure, too.
LIMIT_S = 120 + 2 * EXAMPLES
KEY = "a-key-of-16-chars"
HOOKS = Path(__file__).with_name("schemathesis_hooks.py")


def test_the_service_does_what_its_document_says(start_service, make_clip, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for colour in ("red", "green"):
        (clips / colour).write_bytes(make_clip(colour))
    with start_service(api_keys=(KEY,)) as service:
        ran = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--no-color", "run"),
                f"{service.url}/openapi.json",
                *("--header", f"X-API-Key: {KEY}"),
                *("--checks", "all", "--continue-on-failure"),
                *("--max-examples", str(EXAMPLES), "--seed", "1"),
                *("--generation-database", "none"),
            ],
            env=os.environ
            | {"SCHEMATHESIS_HOOKS": str(HOOKS), "HAR_SCHEMATHESIS_CLIPS": str(clips)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        print(ran.stdout)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert re.search(r"Selected: (\d+)/\1\n", ran.stdout)
        assert re.search(r"\d+ generated", ran.stdout)
        # It would prove little if no request that the document allows had ever been answered.
        labels = {"route": "/predict", "model": "lrcn", "code": "200"}
        assert service.metric("har_request_duration_seconds_count", **labels) > 0

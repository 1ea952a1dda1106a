"""What schemathesis cannot know of openapi.yaml: which bytes are a video. It imports this file.

Without it every request that the document allows would end at "no video", and no answer with
status 200 would ever be held to its schema.
"""

from __future__ import annotations

import os
from pathlib import Path

import schemathesis
from hypothesis import strategies as st

#: The variable that names the folder of the videos to send.
CLIPS_VARIABLE = "HAR_SCHEMATHESIS_CLIPS"

videos = st.sampled_from(
    [path.read_bytes() for path in sorted(Path(os.environ[CLIPS_VARIABLE]).iterdir())]
)
schemathesis.openapi.format("binary", videos)
for media_type in ("video/*", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, videos)


@schemathesis.hook
def filter_body(context: schemathesis.HookContext, body: object) -> bool:
    """Keep forms whose fields are texts: all that multipart can carry.

    Other types are sent as texts, so that "not a text" cannot be refused; a list becomes a field
    for each of its items.
    """
    return not isinstance(body, dict) or all(isinstance(value, str) for value in body.values())

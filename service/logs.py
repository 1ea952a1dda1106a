"""Logs: one line an event, as JSON for machines or readable for people, on standard error.

An event is a short fixed message and named fields. What a field holds may come from anywhere: both
formats escape it, so that no text can end a line or pass for another field.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Final

from service.settings import LogFormat, Settings

FIELDS_ATTRIBUTE: Final = "fields"

# Safe without quotes in a readable line.
_PLAIN = re.compile(r"[\w./:@%+-]+\Z", re.ASCII)
_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(0x7F, 0xA0))} | {
    # Line and paragraph separators, and what turns the direction of writing.
    code: f"\\u{code:04x}"
    for code in (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
#: They comment on every connection and every malformed body; the request's own line says enough.
_CHATTY: Final = {
    "uvicorn": logging.WARNING,
    "asyncio": logging.WARNING,
    "opentelemetry": logging.WARNING,
    "python_multipart": logging.ERROR,
}


def log_event(logger: logging.Logger, level: int, message: str, **fields: object) -> None:
    """Log `message` with its fields; a field that is None is left out."""
    present = {name: value for name, value in fields.items() if value is not None}
    logger.log(level, message, extra={FIELDS_ATTRIBUTE: present})


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Render a record."""
        entry = {
            "time": _format_time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS_ATTRIBUTE, {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class ReadableFormatter(logging.Formatter):
    """Time, level, logger, message, then name=value; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Render a record."""
        fields: dict[str, object] = getattr(record, FIELDS_ATTRIBUTE, {})
        words = [
            _format_time(record),
            record.levelname,
            record.name,
            record.getMessage().translate(_CONTROL),
            *(f"{name}={_format_value(value)}" for name, value in fields.items()),
        ]
        line = " ".join(words)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


_FORMATTERS: Final[dict[LogFormat, type[logging.Formatter]]] = {
    "json": JsonFormatter,
    "readable": ReadableFormatter,
}


def configure_logging(settings: Settings) -> None:
    """Send this process's log to standard error, as the settings say."""
    handler = logging.StreamHandler()
    handler.setFormatter(_FORMATTERS[settings.log_format]())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    logging.captureWarnings(True)
    for name, level in _CHATTY.items():
        logging.getLogger(name).setLevel(level)


def _format_time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _format_value(value: object) -> str:
    text = str(value)
    return text if _PLAIN.match(text) else json.dumps(text)

"""What happens, for programs that listen: records of the logger `polars_glmm`, beside the line on the terminal."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, TextIO

LOGGER = logging.getLogger("polars_glmm")
LOGGER.addHandler(logging.NullHandler())
_FIELDS = "glmm"


def tell(event: str, text: str, level: int = logging.INFO, **fields: Any) -> None:
    """A record: its text, and what a machine reads of it (`event` and fields) as `record.glmm`."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, text, extra={_FIELDS: {"event": event, **fields}})


class JsonLines(logging.Formatter):
    """One object of JSON a line: time, level, logger, event, message, and the fields of the event."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as a line."""
        own = getattr(record, _FIELDS, {"event": "message"})
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": when, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        return json.dumps({**line, **own}, default=str, allow_nan=False)


def to_stream(stream: TextIO, form: str) -> logging.Handler:
    """Write records from now on to a stream, as "text" or "json"; the handler, to be removed again."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter("%(name)s: %(message)s"))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    return handler

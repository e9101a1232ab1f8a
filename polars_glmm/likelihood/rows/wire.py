"""Things on their way between two processes: pickles whose arrays travel beside them, as they are in memory."""

from __future__ import annotations

import pickle
import struct
from typing import Any, BinaryIO

import numpy as np

_SIZE = struct.Struct("<Q")


def send(stream: BinaryIO, thing: Any) -> None:
    """Write one thing; raises OSError where nobody reads any more."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(thing, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(body), *(buffer.raw() for buffer in buffers)]
    stream.write(_SIZE.pack(len(parts)) + b"".join(_SIZE.pack(part.nbytes) for part in parts))
    stream.writelines(parts)
    stream.flush()


def receive(stream: BinaryIO) -> list[Any]:
    """The parts of one thing, to be opened; raises EOFError where nobody writes any more."""
    (count,) = _SIZE.unpack(_exactly(stream, bytearray(_SIZE.size)))
    sizes = _exactly(stream, bytearray(_SIZE.size * count))
    return [_exactly(stream, np.empty(size, dtype=np.uint8)) for (size,) in _SIZE.iter_unpack(sizes)]


def opened(parts: list[Any]) -> Any:
    """The thing of which the parts were received; its arrays lie where they were read to."""
    body, *buffers = parts
    return pickle.loads(body, buffers=buffers)  # noqa: S301  # written by this package's other end


def _exactly(stream: BinaryIO, into: Any) -> Any:
    view, done = memoryview(into), 0
    while done < len(view):
        n = stream.readinto(view[done:])  # type: ignore[attr-defined]  # binary streams have it
        if not n:
            raise EOFError
        done += n
    return into

"""Files that are broken, or made to do harm: by random bytes, and by content that is signed again."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO
from typing import Any


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def signed(parts: dict[str, bytes], manifest: dict[str, Any] | None = None, compression: int = 0) -> bytes:
    """A file of these members, with digests that are right."""
    told = json.loads(parts["manifest.json"]) if manifest is None else manifest
    own = {name: data for name, data in parts.items() if name != "manifest.json"}
    told["members"] = {name: {"bytes": len(d), "sha256": sha256(d).hexdigest()} for name, d in own.items()}
    file = BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in {"manifest.json": json.dumps(told).encode(), **own}.items():
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=compression)
    return file.getvalue()


def scrambled(data: bytes, chance: random.Random) -> bytes:
    """Bytes changed, taken out, put in, repeated or cut off."""
    out = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 8])):
        if not out:
            break
        at, size = chance.randrange(len(out)), chance.choice([1, 1, 2, 4, 64])
        match chance.randrange(6):
            case 0:
                out[at] = chance.randrange(256)
            case 1:
                out[at] ^= 1 << chance.randrange(8)
            case 2:
                del out[at : at + size]
            case 3:
                out[at:at] = chance.randbytes(size)
            case 4:
                out[at : at + size] = chance.choice([b"\xff", b"\x00", b"\x7f"]) * size
            case 5:
                del out[at:]
    return bytes(out)


STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 3, 1 << 40, 10**30, 0.5, -1e308, "", "x", "os.system('x')", [], {}, [[]],
    {"record": "Estimate"}, {"record": "Popen", "args": "x"}, {"float": "nan"}, {"array": 0}, {"array": 10**9},
    "y ~ " + "(" * 500, "y ~ x**99999",
)  # fmt: skip


def twisted(text: Any, chance: random.Random) -> Any:
    """JSON with a value somewhere inside exchanged, left out or doubled."""
    made = json.loads(json.dumps(text))
    for _ in range(chance.choice([1, 1, 3])):
        places = list(_places(made))
        holder, key = chance.choice(places)
        match chance.randrange(4):
            case 0:
                other, place = chance.choice(places)
                holder[key] = json.loads(json.dumps(other[place]))
            case 1:
                del holder[key]
            case _:
                holder[key] = chance.choice(STRANGE)
        made = json.loads(json.dumps(made))
    return made


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def mutations(data: bytes, n: int, seed: int) -> Iterator[bytes]:
    """n files: a third with random bytes, a third with another manifest, a third with other tables, both signed."""
    chance = random.Random(seed)
    parts = members(data)
    told = json.loads(parts["manifest.json"])
    tables = [name for name in parts if name.endswith(".parquet")]
    for k in range(n):
        if k % 3 == 0:
            yield scrambled(data, chance)
        elif k % 3 == 1:
            yield signed(parts, twisted(told, chance))
        else:
            name = chance.choice(tables)
            yield signed(parts | {name: scrambled(parts[name], chance)})

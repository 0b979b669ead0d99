"""Damage files and requests at random, and see that readers refuse them with one sentence.

python -m tests.fuzz --seconds 600            every reader and endpoint for ten minutes
python -m tests.fuzz --seconds 60 svg upload  some of them
"""

import argparse
import hashlib
import json
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from tests.fuzz.targets import Target, targets
from zsbir.errors import ZsbirError

ODD = [
    *(
        b"\0",
        b"\xff" * 4,
        b"-1",
        b"9" * 400,
        b"NaN",
        b"1e999",
        b"[" * 2000,
        b"<g>" * 300,
        b"<!---->" * 300,
        b"1" * 5000,
    ),
    *(b"\xed\xa0\x80", b"../" * 20, b"\x7f\xff\xff\xff", b'"', b"'", b"%00", b"&lt;", b"{}", b"null"),
]
VALUES = [None, True, -1, 0, 2**70, 1.5, "", "a", "../x", [], [None], [[]], {}, {"a": 1}]
"""What takes a JSON value's place."""
LONGEST = 20
"""Seconds for one input; more is a finding."""


class SlowError(BaseException):
    """Not an Exception: no reader may take it for a damaged file."""


def damage(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Change a seed in one to six places: bits, bytes, cut, repeated, moved, odd pieces, parts of another seed.

    Of JSON, every second time, a value or an entry instead: random bytes hardly ever get past the parser.
    """
    seed = rng.choice(seeds)
    if seed[:1] == b"{" and rng.random() < 0.5:
        return misled(rng, seed)
    data = bytearray(seed)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) + 1)
        to = min(len(data), at + rng.choice((1, 2, 8, 64, 1024)))
        how = rng.randrange(7)
        if how == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif how == 1 and at < len(data):
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif how == 2:
            del data[at:to]
        elif how == 3:
            data[at:at] = data[at:to] * rng.choice((1, 2, 50))
        elif how == 4:
            data[at:to] = rng.choice(ODD)
        elif how == 5:
            data[at:at] = rng.choice(ODD)
        else:
            other = rng.choice(seeds)
            start = rng.randrange(len(other) + 1)
            data[at:to] = other[start : start + (to - at)]
    return bytes(data[:200_000])


def misled(rng: random.Random, seed: bytes) -> bytes:
    """Remove an entry of a JSON document, or put another value in its place."""
    document = json.loads(seed)
    place: Any = document
    key: Any = rng.choice(list(place))
    while isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.6:
        place = place[key]
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
    if rng.random() < 0.3:
        del place[key]
    else:
        place[key] = rng.choice(VALUES)
    return json.dumps(document).encode()


def run(name: str, target: Target, seconds: float, seed: int, found: Path) -> dict[str, object]:
    """Fuzz one target; returns how many inputs there were, how many were refused, and what was found."""
    rng = random.Random(f"{name} {seed}")
    tried = refused = 0
    slowest = 0.0
    findings: dict[str, str] = {}

    def late(*_: object) -> None:
        raise SlowError(f"more than {LONGEST} s")

    signal.signal(signal.SIGALRM, late)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        data = damage(rng, target.seeds)
        began = time.monotonic()
        signal.alarm(LONGEST)
        try:
            target.call(data)
        except ZsbirError:
            refused += 1
        except (Exception, SlowError) as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            key = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
            if key not in findings:
                found.mkdir(exist_ok=True)
                file = found / f"{name.replace(' ', '-')}-{hashlib.sha256(data).hexdigest()[:8]}"
                file.write_bytes(data)
                findings[key] = f"{str(error)[:200]} ({file})"
        finally:
            signal.alarm(0)
        tried += 1
        slowest = max(slowest, time.monotonic() - began)
    return {"inputs": tried, "refused": refused, "slowest_s": round(slowest, 2), "findings": findings}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=10, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"), help="where inputs that break something go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        known = targets(Path(folder))
        total = 0
        for name in options.names or known:
            result = run(name, known[name], options.seconds, options.seed, options.found)
            print(json.dumps({"target": name, **result}), flush=True)
            total += len(result["findings"])
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())

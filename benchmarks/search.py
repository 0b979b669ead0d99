"""Stores of the search index: build time, disk, memory, time per query, recall@20; and the web API under load.

python benchmarks/search.py --count 1000000        (--stores exact hnsw ivf-pq milvus; --load INDEX SKETCHES)
"""

import argparse
import concurrent.futures
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _results import processor

from zsbir.search.stores import STORES

SPECS = {
    "exact": {"name": "exact"},
    "faiss-flat": {"name": "faiss", "kind": "flat"},
    "hnsw": {"name": "faiss", "kind": "hnsw"},
    "ivf-pq": {"name": "faiss", "kind": "ivf-pq"},
    "milvus": {"name": "milvus"},
}
RESULTS = Path(__file__).parent / "results"


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def clustered(
    count: int, dim: int, seed: int, centres: int = 1000, spread: float = 0.7
) -> Iterator[tuple[int, np.ndarray]]:
    rng = np.random.default_rng(seed)
    middle = np.random.default_rng(0).standard_normal((centres, dim)).astype(np.float32)
    for start in range(0, count, 65_536):
        size = min(65_536, count - start)
        part = middle[rng.integers(0, centres, size)]
        part += spread * rng.standard_normal((size, dim), dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        yield start, part


def timed(work: Callable[[Any], Any], queries: Iterable[Any]) -> tuple[list[Any], dict[str, float]]:
    found, seconds = [], []
    for query in queries:
        began = time.perf_counter()
        found.append(work(query))
        seconds.append(time.perf_counter() - began)
    return found, {"p50_ms": 1e3 * float(np.quantile(seconds, 0.5)), "p95_ms": 1e3 * float(np.quantile(seconds, 0.95))}


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One store in this process, so that its memory is its own."""
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        store = STORES.build(SPECS[name])
        store.open(Path(folder), args.dim)
        began, before = time.perf_counter(), resident()
        for start, part in clustered(args.count, args.dim, 1):
            store.add(np.arange(start, start + len(part)), part)
        store.flush()
        store.finish()
        row = {"store": name, "spec": SPECS[name], "build_s": time.perf_counter() - began}
        row["disk_mb"] = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file()) / 1e6
        queries = np.concatenate([part for _, part in clustered(args.queries, args.dim, 2)])
        # The truth is found in a pass of its own, so that it costs the store no memory.
        best = np.full((len(queries), 0), -np.inf, np.float32)
        ids = np.zeros((len(queries), 0), np.int64)
        for start, part in clustered(args.count, args.dim, 1):
            best = np.concatenate([best, queries @ part.T], axis=1)
            ids = np.concatenate(
                [ids, np.broadcast_to(np.arange(start, start + len(part)), (len(queries), len(part)))], 1
            )
            keep = np.argsort(-best, axis=1)[:, :20]
            best, ids = np.take_along_axis(best, keep, 1), np.take_along_axis(ids, keep, 1)
        for query in queries[:3]:
            store.search(query[None], 20)
        found, times = timed(lambda query: store.search(query[None], 20)[1][0], queries)
        row |= times
        row["recall_at_20"] = float(np.mean([len(set(a) & set(b)) / 20 for a, b in zip(found, ids, strict=True)]))
        row["memory_mb"] = (resident() - before) / 1e6
        if name == "exact":
            matrix = store.rows
            _, plain = timed(lambda query: matrix @ query, queries)
            row["plain_product_p50_ms"] = plain["p50_ms"]
            row["times_the_plain_product"] = row["p50_ms"] / plain["p50_ms"]
        store.close()
    return row


def load_test(args: argparse.Namespace) -> dict[str, Any]:
    """End to end on an index, then users at once over HTTP."""
    import httpx
    import uvicorn

    from zsbir.search.index import Index
    from zsbir.search.query import open_query
    from zsbir.search.web.app import create_app
    from zsbir.search.web.guard import Settings

    index = Index.load(args.load[0])
    sketches = sorted(Path(args.load[1]).rglob("*.png"))[:: args.every][:200]
    index.search(sketches[0], 20)
    images = [open_query(sketch) for sketch in sketches[:50]]
    result = {"photos": len(index), "end_to_end": timed(lambda f: index.search(f, 20), sketches[:50])[1]}
    vectors = [index.vector(image) for image in images]
    result["embed"] = timed(index.vector, images)[1]
    result["search"] = timed(lambda vector: index.nearest(vector, 20), vectors)[1]
    app = create_app(index, Settings(rate=1e6, burst=10**6))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/search?k=20"
    bodies = [sketch.read_bytes() for sketch in sketches]
    end = time.perf_counter() + args.seconds

    def user(number: int) -> tuple[list[float], int]:
        rng, seconds, errors = np.random.default_rng(number), [], 0
        with httpx.Client(timeout=60) as client:
            while time.perf_counter() < end:
                began = time.perf_counter()
                body = bodies[rng.integers(len(bodies))]
                answer = client.post(address, content=body, headers={"content-type": "image/png"})
                errors += answer.status_code != 200
                seconds.append(time.perf_counter() - began)
        return seconds, errors

    with concurrent.futures.ThreadPoolExecutor(args.users) as pool:
        users = [pool.submit(user, number) for number in range(args.users)]
        time.sleep(args.seconds / 3)
        early = resident()
        done = [one.result() for one in users]
    result["memory_mb"] = {"after_a_third": early / 1e6, "at_the_end": resident() / 1e6}
    server.should_exit = True
    thread.join()
    seconds = np.array([second for one, _ in done for second in one])
    result |= {
        "users": args.users,
        "seconds": args.seconds,
        "requests": len(seconds),
        "errors": sum(e for _, e in done),
    }
    result |= {f"p{q}_ms": 1e3 * float(np.quantile(seconds, q / 100)) for q in (50, 95)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--stores", nargs="*", default=list(SPECS), choices=list(SPECS))
    parser.add_argument("--folder", help="where the stores are built; default: the temporary folder")
    parser.add_argument("--load", nargs=2, metavar=("INDEX", "SKETCHES"), help="also load the web API of an index")
    parser.add_argument("--every", type=int, default=8, help="take every n-th sketch")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--name", default="search", help="of the result files")
    parser.add_argument("--one", choices=list(SPECS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args)))
        return
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{args.name}.json"
    report = {
        "command": f"python benchmarks/search.py --count {args.count} --dim {args.dim} "
        f"--stores {' '.join(args.stores)}",
        "date": datetime.date.today().isoformat(),
        "cores": os.cpu_count(),
        "cpu": processor(),
        "busy_when_started": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {part: version(part) for part in ("numpy", "torch", "faiss-cpu", "starlette", "uvicorn")},
        "count": args.count,
        "dim": args.dim,
        "stores": [],
    }
    if file.is_file():  # rows of other runs of the same size stay, so that stores can be measured one by one
        old = json.loads(file.read_text())
        if (old["count"], old["dim"]) == (args.count, args.dim):
            report["stores"] = [row for row in old["stores"] if row["store"] not in args.stores]
            report |= {"web": old["web"]} if "web" in old else {}
    same = [f"--{k}={getattr(args, k)}" for k in ("count", "dim", "queries")]
    same += [f"--folder={args.folder}"] if args.folder else []
    for name in args.stores:
        run = subprocess.run([sys.executable, __file__, "--one", name, *same], stdout=subprocess.PIPE, text=True)
        row = (
            json.loads(run.stdout.splitlines()[-1])
            if run.returncode == 0
            else {"store": name, "failed": run.returncode}
        )
        row |= {"date": report["date"], "load_average": os.getloadavg()[0]}
        report["stores"] = sorted([*report["stores"], row], key=lambda row: list(SPECS).index(row["store"]))
        print(row, flush=True)
        write(report, file)
    if args.load:
        report["web"] = load_test(args)
        print(report["web"])
    write(report, file)


def write(report: dict[str, Any], file: Path) -> None:
    file.write_text(json.dumps(report, indent=1) + "\n")
    columns = ("store", "build_s", "disk_mb", "memory_mb", "p50_ms", "p95_ms", "recall_at_20", "load_average")
    lines = [
        f"{report['count']:,} × {report['dim']}, clustered; {report['cores']} cores ({report['cpu']}), "
        f"{report['date']}; `{report['command']}`",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
    ]
    for row in report["stores"]:
        cells = [f"{row.get(c):.3g}" if isinstance(row.get(c), float) else str(row.get(c, "failed")) for c in columns]
        lines.append("| " + " | ".join(cells) + " |")
        if "times_the_plain_product" in row:
            note = f"Exact search takes {row['times_the_plain_product']:.2f} times the plain product."
    lines += ["", note] if any("times_the_plain_product" in row for row in report["stores"]) else []
    if web := report.get("web"):
        lines += ["", f"Web API over {web['photos']:,} photos, {web['users']} users for {web['seconds']:.0f} s: "]
        lines[-1] += f"{web['requests']} requests, {web['errors']} errors, p50 {web['p50_ms']:.0f} ms, p95 "
        lines[-1] += f"{web['p95_ms']:.0f} ms; memory {web['memory_mb']['after_a_third']:.0f} MB after a third, "
        lines[-1] += f"{web['memory_mb']['at_the_end']:.0f} MB at the end. One user: "
        lines[-1] += ", ".join(f"{k} p50 {web[k]['p50_ms']:.1f} ms" for k in ("end_to_end", "embed", "search")) + "."
    file.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

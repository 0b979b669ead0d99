"""Writes README's table of measured figures from benchmarks/results/; a test compares the two.

python benchmarks/readme_table.py
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- measured: python benchmarks/readme_table.py -->", "<!-- end -->"
REAL = "<!-- real: python benchmarks/readme_table.py -->"
ON_REAL = {
    "frozen": "frozen features",
    "means removed": "domain means removed",
    "the same, three stages": "means and deviations removed, three stages",
    "contrastive": "`contrastive`, a head on them",
    "contrastive, features kept": "`contrastive --recipe small-data`: the features kept",
    "contrastive, two stages tuned": "and two stages tuned",
    "sbka": "`sbka --recipe small-data`",
    "dann": "`dann --recipe small-data`",
    "puxim": "`puxim --recipe small-data`",
}
"""Rows of `real.py` in README's table."""
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t for a two-sided 95 % interval, by number of values."""


def result(name: str) -> Any:
    """Return a results file."""
    return json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))


def spread(values: list[float]) -> str:
    """Return mean ± 95 % t interval."""
    half = T_95[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.3f} ± {half:.3f}"


def rows() -> list[tuple[str, str, str]]:
    """Return (what, figure, script)."""
    found = []
    for row in result("quickstart")["rows"] if (HERE / "results" / "quickstart.json").is_file() else ():
        tuned = "settings chosen on these classes" if row["seed"] == 0 else "nothing chosen on these classes"
        what = f"`zsbir quickstart --seed {row['seed']}`: mAP@all on {row['unseen_classes']} unseen classes ({tuned})"
        figure = f"{row['before']:.3f} → {row['after']:.3f}, chance {row['chance']:.3f}"
        found.append((what, figure, "quickstart"))
    heads = result("dann_ablation_openmoji")["rows"]
    trained = [run["unseen_mAP"] for run in heads["triplet only"]]
    what = (
        f"mAP@all on unseen classes of `openmoji`, {len(trained)} seeds (settings chosen on them): frozen features; "
        "domain means removed; heads trained with triplets"
    )
    plain = [f"{heads[name][0]['unseen_mAP']:.3f}" for name in ("frozen", "frozen, domain means removed")]
    found.append((what, "; ".join([*plain, spread(trained)]), "dann_ablation"))
    size = next(s for s in result("evaluation")["sizes"] if s["queries"] == 15229)
    what = f"all protocols for {size['queries']:,} × {size['photos']:,} vectors, against the bare matrix product"
    found.append((what, f"{size['ratio']:.2f}× its time, {size['extra_memory_mib']:.0f} MiB more", "evaluation"))
    scoring = result("one_to_many")["scoring"]
    found.append(("one-to-many scores of a query, against scikit-learn and a loop", f"{scoring['ratio']:.0f}× as fast",
                  "one_to_many"))  # fmt: skip
    search = result("search")
    for store in search["stores"]:
        if store["store"] in ("exact", "hnsw"):
            what = f"one query among {search['count']:,} photos, store `{store['store']}`"
            found.append((what, f"{store['p50_ms']:.1f} ms, recall@20 {store['recall_at_20']:.3f}", "search"))
    return found


def block() -> str:
    """Return the table as it stands in README."""
    lines = ["| measured on two CPU cores, shared with other work | | script |", "|---|---|---|"]
    lines += [f"| {what} | {figure} | `{script}.py` |" for what, figure, script in rows()]
    return "\n".join([BEGIN, "", *lines, "", END])


def real_block() -> str:
    """Return the table of real data as it stands in README."""
    shown, columns = result("real")["shown"], ("Sketchy-25", "Sketchy-21", "tuberlin76", "pacs6")
    lines = [f"| unseen mAP@all (`standard`) | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row, said in ON_REAL.items():
        cells = (shown.get(f"{row}, {column}", "not measured") for column in columns)
        lines.append(f"| {said} | {' | '.join(cells)} |")
    return "\n".join([REAL, "", *lines, "", END])


def in_readme(text: str, begin: str = BEGIN) -> str:
    """Return the part of README between the two marks, both included."""
    start = text.index(begin)
    return text[start : text.index(END, start) + len(END)]


def main() -> None:
    text = README.read_text(encoding="utf-8")
    for begin, made in ((BEGIN, block()), (REAL, real_block())):
        text = text.replace(in_readme(text, begin), made)
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

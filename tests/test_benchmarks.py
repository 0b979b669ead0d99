import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_every_benchmark_still_fits_the_library():
    scripts = sorted(file.stem for file in BENCHMARKS.glob("*.py"))
    assert len(scripts) > 10
    work = f"import importlib\nfor name in {scripts}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", work], cwd=BENCHMARKS, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr

import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_every_benchmark_still_fits_the_library():
    scripts = sorted(file.stem for file in BENCHMARKS.glob("*.py"))
    assert len(scripts) > 10
    work = f"import importlib\nfor name in {scripts}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", work], cwd=BENCHMARKS, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_gpu_benchmark_refuses_without_one():
    done = subprocess.run([sys.executable, "gpu.py"], cwd=BENCHMARKS, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "needs a CUDA device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("part", ["evaluation", "one_to_many", "matchers", "serving"])
def test_gpu_benchmark_works_in_small(part):
    command = [sys.executable, "gpu.py", part, "--dry"]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("| ")

"""Every script of examples/ runs as a user would run it: in a process of its own, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
PRINTS = {
    "generalised_and_fine_grained": r"harmonic mean: mAP@all 0\.\d(.*\n)*fine-grained, within category: acc@1 0\.\d",
    "index_and_search": r"320 photos in my\.index\n(.*\n)*a circle\n  0\.\d+",
    "new_method": r"'contrast'.* after, on unseen classes\n(.*\n)*\| mAP@all \|",
    "one_to_many_on_your_embeddings": r"0\.\d+  one-to-many\(M=2, K=30 given.*\n(.*\n)*scores of 80 sketches for 80",
    "swap_one_part": r"name=random, ratio=0\.3.*: mAP@all 0\.\d+ \(over classes 0\.\d+ to 0\.\d+\)\nname=oracle",
    "train_evaluate_dann": r"ImageNet features: mAP@all 0\.\d+ .*\nDANN: mAP@all 0\.\d+ on 10 unseen classes",
    "train_evaluate_puxim": r"after 2 epochs\n\| metric \| standard \| puxim \|",
    "train_evaluate_sbka": r"one-to-many\(M=2, K=10 given(.*\n)*\| mAP@all \| 0\.\d+",
}
LEFT = {"index_and_search": "found.png", "new_method": "contrast", "one_to_many_on_your_embeddings": "matcher"}


@pytest.fixture(scope="session")
def drawings(tmp_path_factory):
    """One cache of rendered drawings for all examples."""
    return tmp_path_factory.mktemp("cache")


def test_each_example_is_known():
    assert {script.stem for script in SCRIPTS} == PRINTS.keys()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_example_runs(script, tmp_path, drawings):
    env = {**os.environ, "XDG_CACHE_HOME": str(drawings)}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert re.search(PRINTS[script.stem], done.stdout), done.stdout
    if script.stem in LEFT:
        assert (tmp_path / LEFT[script.stem]).exists()


def test_new_method_is_about_forty_lines():
    text = (EXAMPLES / "new_method.py").read_text(encoding="utf-8")
    from_to = text[text.index("import torch") : text.index("\n\n\ndataset =")]
    assert len(from_to.splitlines()) <= 40

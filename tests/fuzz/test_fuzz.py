import sys

import pytest

from tests.fuzz.__main__ import run
from tests.fuzz.targets import targets


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return targets(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.skipif(sys.platform == "win32", reason="the time limit is an alarm, which Windows lacks")
def test_damaged_inputs_are_refused(known, tmp_path):
    for name, target in known.items():
        result = run(name, target, 0.5, 1, tmp_path / "found")
        assert not result["findings"], (name, result["findings"])
        assert result["inputs"]


def test_a_finding_is_reported(known, tmp_path):
    from tests.fuzz.targets import Target

    result = run("broken", Target([b"abc"], lambda data: 1 / 0), 0.05, 1, tmp_path / "found")
    assert "ZeroDivisionError" in str(result["findings"])
    assert len(list((tmp_path / "found").iterdir())) == 1

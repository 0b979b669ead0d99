import pytest

from zsbir.errors import ZsbirError, needing


def test_a_missing_package_is_named_with_what_installs_it():
    said = r"^serving needs no_such_package: run `pip install 'zsbir\[web\]'`$"
    with pytest.raises(ZsbirError, match=said), needing("serving", "zsbir[web]"):
        import no_such_package  # noqa: F401
    with pytest.raises(ZsbirError, match="serving needs a newer system: run"), needing("serving", "zsbir[web]"):
        raise ImportError("a newer system")
    with pytest.raises(ValueError, match="other"), needing("serving", "zsbir[web]"):
        raise ValueError("other")

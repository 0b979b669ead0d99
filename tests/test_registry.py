"""The registry: names without imports, specs with defaults bound, and typos answered."""

import pytest

import zsbir
from zsbir.errors import UnknownNameError, ZsbirError
from zsbir.registry import Registry, spec_of


class Base:
    spec: dict


@pytest.fixture
def registry():
    made: Registry[Base] = Registry("thing", "zsbir.engine")

    @made.register("part")
    class Part(Base):
        def __init__(self, size: int = 3) -> None:
            self.size = size

    @made.register("whole")
    class Whole(Base):
        def __init__(self, part: object = "part", tags: tuple[str, ...] = ("a",)) -> None:
            self.part = made.build(part)

    return made


def test_spec_binds_defaults(registry):
    assert registry.build("part").spec == {"name": "part", "size": 3}
    assert registry.build({"name": "part", "size": 4}).size == 4
    assert registry.build({"name": "part", "size": 4}, size=5).spec["size"] == 5


def test_instance_argument_becomes_its_spec(registry):
    part = registry.build("part", size=9)
    whole = registry.build("whole", part=part)
    assert whole.part is part
    assert whole.spec == {"name": "whole", "part": {"name": "part", "size": 9}, "tags": ["a"]}
    assert registry.build(whole.spec).part.size == 9


def test_component_without_spec_cannot_be_recorded(registry):
    plain = registry.get("part")(size=1)
    with pytest.raises(ZsbirError, match="has no spec"):
        registry.build("whole", part=plain)
    with pytest.raises(ZsbirError, match="has no spec"):
        spec_of(plain)


def test_unknown_names_and_arguments_are_answered(registry):
    with pytest.raises(UnknownNameError, match="There is no thing 'prat'. Did you mean 'part'"):
        registry.build("prat")
    with pytest.raises(UnknownNameError, match="thing 'part' has no argument 'sise'. Did you mean 'size'"):
        registry.build("part", sise=2)
    with pytest.raises(ZsbirError, match="needs the key 'name'"):
        registry.build({"size": 2})
    with pytest.raises(ZsbirError, match="takes no arguments"):
        registry.build(registry.build("part"), size=2)


def test_name_can_be_taken_once(registry):
    with pytest.raises(ZsbirError, match="already registered"):
        registry.register("part")(type("Other", (Base,), {}))


def test_own_names_are_taken_even_before_they_are_imported():
    with pytest.raises(ZsbirError, match=r"already registered by zsbir\.maskers\.random"):
        zsbir.MASKERS.register("random")(type("Mine", (), {}))


def test_typo_of_a_timm_model_is_answered():
    with pytest.raises(UnknownNameError, match="vit_tiny_patch16_224"):
        zsbir.BACKBONES.build("vit_tiny_patch16_225")


def test_list_has_every_registry_with_a_line_each():
    found = zsbir.list()
    assert sorted(found) == ["backbones", "datasets", "maskers", "matchers", "methods", "protocols"]
    for names in found.values():
        for name, summary in names.items():
            assert summary, name

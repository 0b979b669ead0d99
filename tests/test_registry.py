"""The registry: names without imports, specs with defaults bound, and typos answered."""

import importlib.metadata
import inspect
import pydoc
import sys

import pytest

import zsbir
from zsbir.engine.run import recipe_from
from zsbir.errors import UnknownNameError, ZsbirError
from zsbir.registry import Registry, import_file, spec_of


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


def test_constructor_and_build_are_equal(registry):
    part = registry.get("part")
    assert part(4).spec == registry.build("part", size=4).spec == {"name": "part", "size": 4}
    with pytest.raises(UnknownNameError, match="thing 'part' has no argument 'sise'"):
        part(sise=4)


def test_outermost_registered_class_is_recorded(registry):
    @registry.register("double")
    class Double(registry.get("part")):
        def __init__(self, half: int) -> None:
            super().__init__(2 * half)

    made = Double(half=3)
    assert (made.size, made.spec) == (6, {"name": "double", "half": 3})
    assert str(inspect.signature(Double)) == "(half: int)"

    class Unregistered(Double):
        pass

    with pytest.raises(ZsbirError, match="register its class"):
        spec_of(Unregistered(3))


def test_part_without_spec_works_and_cannot_be_recorded(registry):
    class Unregistered(registry.get("part")):
        pass

    for whole in (registry.build("whole", part=Unregistered()), registry.get("whole")(Unregistered())):
        assert isinstance(whole.part, Unregistered)
        with pytest.raises(ZsbirError, match="has no spec"):
            spec_of(whole)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("dann", {"margin": "abc"}, "method 'dann': margin='abc' must be a number"),
        ("dann", {"margin": float("nan")}, "margin=nan must be a number"),
        ("dann", {"pool": "mx"}, "pool='mx' must be 'max' or 'model'"),
        ("dann", {"freeze": "all"}, "freeze='all' must be 'none' or 'backbone'"),
        ("dann", {"shared": "perhaps"}, "shared='perhaps' must be True or False"),
        ("dann", {"head": 256}, "head=256 must be a list of whole numbers"),
        ("dann", {"backbone": 3}, "backbone=3 must be text, a mapping or a Backbone"),
        ("puxim", {"match": "all"}, "match='all' must be 'mask' or 'non-mask'"),
        ("sbka", {"preset": "pacs"}, "preset='pacs' must be 'sketchy', 'tuberlin' or 'quickdraw'"),
        ("sbka", {"classes": "bat"}, "classes='bat' must be a list of texts"),
        ("dann", {"head": [-3]}, "head=.-3. must be a list of whole numbers of at least 1"),
        ("dann", {"margin": -5}, "margin=-5 must be a number of at least 0"),
        ("puxim", {"layers": 0}, "layers=0 must be a whole number of at least 1"),
        ("frozen", {"backbone": {"name": "tiny", "image_size": -16}}, "image_size=-16 must be"),
        (None, {}, "a method is given by its name, a mapping with the key 'name', or a Method, not None"),
        (3, {}, "not 3"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(name, arguments, message):
    with pytest.raises(ZsbirError, match=message):
        zsbir.build(name, **arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": -1}, "recipe: epochs=-1 must be a whole number of at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be a whole number of at least 1"),
        ({"lr": "0.1"}, "lr='0.1' must be a number above 0"),
        ({"lr": float("nan")}, "lr=nan must be"),
        ({"epoch": 1}, "recipe has no argument 'epoch'. Did you mean 'epochs'"),
        ({"schedule": "cosin"}, "schedule='cosin' must be 'constant', 'cosine' or 'exponential'"),
        ({"augment": "afine"}, "augment='afine' must be 'none', 'affine' or"),
        ({"sampling": "mix"}, "sampling='mix' must be 'triplet', 'mixed' or"),
        ({"sketch_share": 1}, r"sketch_share=1 must be a number in \(0, 1\)"),
        ({"ema": 1.5}, r"ema=1.5 must be a number in \(0, 1\) or None"),
    ],
)
@pytest.mark.parametrize("make", [lambda values: zsbir.Recipe(**values), recipe_from])
def test_recipe_is_checked_wherever_it_comes_from(make, settings, message):
    with pytest.raises(ZsbirError, match=message):
        make(settings)


def test_registered_classes_show_their_signature():
    assert "pretrained: bool = False, " in pydoc.render_doc(zsbir.METHODS.get("dann"), renderer=pydoc.plaintext)
    assert list(zsbir.METHODS.parameters("dann"))[:2] == ["backbone", "pretrained"]


def test_file_registers_a_component(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    file = tmp_path / "my_matcher.py"
    file.write_text(
        "from zsbir import MATCHERS\nfrom zsbir.matchers.cosine import CosineMatcher\n"
        '@MATCHERS.register("mine")\nclass Mine(CosineMatcher):\n    pass\n'
    )
    module = import_file(file)
    assert import_file(file) is module
    assert type(zsbir.MATCHERS.build("mine")) is module.Mine
    del zsbir.MATCHERS._entries["mine"], sys.modules["my_matcher"]
    with pytest.raises(ZsbirError, match="is no Python file"):
        import_file(tmp_path / "other.py")
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(ZsbirError, match=r"broken\.py failed: ZeroDivisionError"):
        import_file(tmp_path / "broken.py")
    (tmp_path / "json.py").write_text("")
    with pytest.raises(ZsbirError, match="there is a module 'json' already"):
        import_file(tmp_path / "json.py")


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
    kinds = ["backbones", "datasets", "maskers", "matchers", "methods", "protocols", "stores"]
    assert sorted(found) == kinds
    assert "\n  one-to-many        " in repr(found)
    assert all(f"<td>{kind}</td>" in found._repr_html_() for kind in kinds)
    assert repr(zsbir.STORES) == "<stores: exact, faiss, milvus>"
    assert "<td>exact</td>" in zsbir.STORES._repr_html_()
    for names in found.values():
        for name, summary in names.items():
            assert summary, name


def test_everything_comes_from_the_package_itself():
    for name in zsbir.__all__:
        assert getattr(zsbir, name) is not None, name
    names: dict = {}
    exec("from zsbir import *", names)
    assert names["Method"] is zsbir.methods.base.Method
    assert "list" not in names


def test_metadata_is_not_read_after_import(tmp_path, monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    method = zsbir.build("frozen", backbone="tiny")
    monkeypatch.setattr(importlib.metadata.Distribution, "from_name", absent)
    method.save(tmp_path / "model")
    assert zsbir.load(tmp_path / "model").spec == method.spec

"""README and docs agree with the code and with the results files, and what they point to exists."""

import importlib.util
import json
import re

import pytest

import zsbir
from tests.docs.blocks import PAGES, ROOT
from zsbir.search.stores import STORES

README = (ROOT / "README.md").read_text(encoding="utf-8")
REGISTRIES = (zsbir.METHODS, zsbir.DATASETS, zsbir.BACKBONES, zsbir.MASKERS, zsbir.MATCHERS, zsbir.PROTOCOLS, STORES)
# An installed plugin is documented by its own package.
ENTRIES = [
    (registry, name)
    for registry in REGISTRIES
    for name in registry.names()
    if registry.get(name).__module__.startswith("zsbir.")
]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("registry", "name"), ENTRIES, ids=[f"{r.kind}-{n}" for r, n in ENTRIES])
def test_every_component_is_in_the_reference(registry, name):
    component = registry.get(name)
    reference = (ROOT / "docs" / "components.md").read_text(encoding="utf-8")
    assert f":: {component.__module__}.{component.__qualname__}\n" in reference


def test_every_public_name_is_in_the_reference():
    reference = "".join(page.read_text(encoding="utf-8") for page in PAGES if "docs/api" in page.as_posix())
    for name in zsbir.__all__:
        assert re.search(rf"zsbir\.(\w+\.)*{name}\b", reference), name


@pytest.mark.parametrize("registry", REGISTRIES[:-1], ids=lambda registry: registry.kind)
def test_readme_names_every_component(registry):
    row = next(line for line in README.splitlines() if line.startswith(f"| {registry.kind}s |"))
    missing = [name for held, name in ENTRIES if held is registry and f"`{name}`" not in row and name != "timm"]
    assert not missing


def test_readme_has_the_figures_of_the_results():
    table = script("readme_table")
    for begin, made in ((table.BEGIN, table.block()), (table.REAL, table.real_block())):
        assert table.in_readme(README, begin) == made, "run: python benchmarks/readme_table.py"


def test_readme_has_the_reference_values_of_the_protocols():
    values = json.loads((ROOT / "tests" / "reference" / "protocols.json").read_text(encoding="utf-8"))
    balanced, tailed = values["balanced"], values["long_tail"]
    same = f"mAP@100 {balanced['sbka']['mAP@100']:.3f} under SBKA's definition and {balanced['puxim']['mAP@100']:.3f}"
    other = f"mAP@all {tailed['sbka']['mAP@all']:.3f}\naveraged over classes and {tailed['puxim']['mAP@all']:.3f}"
    assert same in README
    assert other in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_a_page_points_to_exist(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            assert re.fullmatch(r"https://[\w.-]+(:\d+)?(/\S*)?", link), f"{page.name}: {link}"
        elif not link.startswith("#"):
            assert (page.parent / link.partition("#")[0]).exists(), f"{page.name}: {link}"


def test_every_results_file_is_in_the_docs():
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for file in sorted((ROOT / "benchmarks" / "results").glob("*.md")):
        assert f"benchmarks/results/{file.name}" in pages, file.name
        assert file.with_suffix(".json").is_file(), file.name


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks" / "results").rglob("*.json")), ids=lambda file: file.stem)
def test_results_say_how_they_were_made(file):
    text = file.read_text(encoding="utf-8")
    record = json.loads(text)
    assert record["command"].startswith("python benchmarks/")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
    assert '"cores"' in text
    assert '"cpu"' in text


def test_run_all_knows_every_benchmark():
    sources = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if not path.stem.startswith("_")}
    text = (ROOT / "benchmarks" / "run_all.py").read_text(encoding="utf-8")
    assert [name for name in sources - {"run_all", "readme_table"} if f'"{name}' not in text] == []


def test_versions_agree():
    version = zsbir.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {version}" in (ROOT / "docs" / "changelog.md").read_text(encoding="utf-8")

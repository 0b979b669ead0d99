import importlib.util
import subprocess
from pathlib import Path

import pytest

from zsbir import cli

DOCS = Path(__file__).parents[2] / "docs"


def every_command():
    for name in cli.COMMANDS:
        found = cli._command(name)
        yield from (f"{name} {inner}" for inner in found) if isinstance(found, dict) else [name]


def test_overview_names_every_command_in_a_few_lines(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"• {name}" in printed for name in cli.COMMANDS)
    assert "paired randomisation" not in printed  # the second paragraph is for the command's own help


def test_unknown_command_has_its_close_match(capsys):
    assert cli.main(["trian"]) == 2
    assert "there is no command 'trian'. Did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if isinstance(cli._command(name), dict)])
def test_group_alone_shows_its_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([name])
    assert ended.value.code == 0
    assert f"usage: zsbir {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", list(every_command()))
def test_help_of_each_command_has_an_example(name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*name.split(), "--help"])
    assert ended.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"Example: zsbir {name}" in printed
    assert "{None}" not in printed


def test_reference_of_the_command_line_is_up_to_date():
    spec = importlib.util.spec_from_file_location("make_cli", DOCS / "make_cli.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run: python docs/make_cli.py"


@pytest.fixture(scope="module")
def completion(tmp_path_factory):
    script = tmp_path_factory.mktemp("completion") / "completion.bash"
    assert cli.main(["--tyro-write-completion", "bash", str(script)]) == 0
    return script


def test_printed_completion_is_the_written_one(completion, capsys):
    assert cli.main(["--tyro-print-completion", "bash"]) == 0
    assert capsys.readouterr().out.split() == completion.read_text().split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["tr"], {"train"}),
        (["train", "--sel"], {"--select-on"}),
        (["train", "--select-on", ""], {"validation", "accuracy", "test", "none"}),
        (["datasets", "check", "--r"], {"--root"}),
        (["train", "pux"], {"puxim"}),
        (["train", "dann", "--dataset", "sketchy-2"], {"sketchy-21", "sketchy-25"}),
        (["train", "dann", "--backbone", "li"], {"lite0"}),
        (["datasets", "info", "quick"], {"quickdraw-30"}),
        (["masks", "orac"], {"oracle"}),
        (["search", "my.index", "--matcher", "k-"], {"k-reciprocal"}),
        (["index", "photos", "--store", "mil"], {"milvus"}),
        (["evaluate", "runs/dann", "--protocol", "sak"], {"sake"}),
        (["evaluate", ""], {"runs/dann-folder-1", "runs/dann-folder-2"}),
        (["export", "runs/dann-folder-2"], {"runs/dann-folder-2"}),
        (["embed", "runs/"], {"runs/dann-folder-1", "runs/dann-folder-2"}),
        (["serve", ""], {"my.index"}),
        (["serve", "my.index", "--ra"], {"--rate"}),
    ],
)
def test_shell_completes_commands_options_choices_and_names(words, found, completion, tmp_path):
    for place in ("runs/dann-folder-1/run.json", "runs/dann-folder-2/run.json", "my.index/index.json", "other/x"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).touch()
    typed = " ".join(f"'{word}'" for word in ["zsbir", *words])
    probe = f"""source {completion}
COMP_WORDS=({typed}); COMP_CWORD={len(words)}; COMP_LINE="${{COMP_WORDS[*]}}"; COMP_POINT=${{#COMP_LINE}}
"$(complete -p zsbir | sed 's/.*-F \\([^ ]*\\).*/\\1/')" && echo "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", probe], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert set(done.stdout.split()) == found

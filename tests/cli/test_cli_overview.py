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


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["tr"], {"train"}),
        (["train", "--sel"], {"--select-on"}),
        (["train", "--select-on", ""], {"validation", "accuracy", "test", "none"}),
        (["datasets", "check", "--r"], {"--root"}),
    ],
)
def test_shell_completes_commands_options_and_choices(words, found, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["--tyro-print-completion", "bash"])
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    typed = " ".join(f"'{word}'" for word in ["zsbir", *words])
    probe = f"""source {script}
COMP_WORDS=({typed}); COMP_CWORD={len(words)}; COMP_LINE="${{COMP_WORDS[*]}}"; COMP_POINT=${{#COMP_LINE}}
"$(complete -p zsbir | sed 's/.*-F \\([^ ]*\\).*/\\1/')" && echo "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", probe], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == found

import pytest

from zsbir import cli


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

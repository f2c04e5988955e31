"""Calls a command in this process, as `tfdetect COMMAND ARGUMENTS` would."""

from tfdetect import __main__ as cli


def call(command, arguments, capsys):
    """Returns the exit code, stdout and stderr."""
    capsys.readouterr()
    code = cli.main([command, *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err

"""The helps: each says what its command does, explains every option, and ends with examples that the grammar takes."""

import argparse
import re
from collections.abc import Iterator

import pytest

from engine.command_io.program import COMMAND_NAMES, as_typed
from engine.errors import OptionError
from server.commands.options.arguments import import_function, root_parser
from server.commands.table import COMMANDS

pytestmark = pytest.mark.fast


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)


ALL = {each.prog: each for name in COMMANDS for each in parsers(import_function(COMMANDS[name].parser)())}


@pytest.mark.parametrize("prog", ALL)
def test_each_help_says_what_the_command_does_and_ends_with_examples(prog: str) -> None:
    parser = ALL[prog]
    assert parser.description
    assert parser.description.strip().endswith(".")
    assert parser.epilog
    assert "examples:\n" in parser.epilog
    assert "headrace " in parser.epilog.partition("examples:\n")[2]


@pytest.mark.parametrize("prog", ALL)
def test_each_option_is_explained(prog: str) -> None:
    for action in ALL[prog]._actions:
        assert action.help or isinstance(action, argparse._SubParsersAction), action
        if action.help and not isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            begins_with_value = action.help.split()[0].strip("'") in ("0", *str(action.metavar).strip("{}").split(","))
            assert action.help[0].isupper() or begins_with_value, action.help
            assert action.help.endswith("."), action.help


@pytest.mark.parametrize("prog", ALL)
def test_examples_are_what_the_grammar_takes(prog: str) -> None:
    examples = (ALL[prog].epilog or "").partition("examples:\n")[2]
    commands = re.findall(r"^  (headrace [^|<>$#\n]*?)(?:   .*)?$", examples, re.MULTILINE)
    for command in commands:
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', command)][1:]
        try:
            _, unknown = root_parser(words[0]).parse_known_args(words)
        except OptionError as error:
            pytest.fail(f"{command}: {error}")
        assert unknown == [], command


@pytest.mark.parametrize("prog", ALL)
def test_no_line_is_wider_than_the_terminal(prog: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    epilog = ALL[prog].epilog or ""
    assert max(map(len, epilog.splitlines())) <= 120
    assert max(len(line) for line in ALL[prog].format_help().replace(as_typed(epilog), "").splitlines()) <= 120


def test_the_overview_has_every_command_once() -> None:
    overview = root_parser().format_help()
    for name in COMMANDS:
        assert len(re.findall(rf"^  {name} ", overview, re.MULTILINE)) == 1


def test_texts_that_show_commands_know_all_names() -> None:
    assert set(COMMAND_NAMES) == set(COMMANDS)

"""The parser of the command line: argparse, with the word that was probably meant, and the usage of the right verb."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from typing import Any, NoReturn

_CHOICE = re.compile(r"invalid choice: '(?P<word>[^']*)' \(choose from (?P<known>.*)\)$")
_UNKNOWN = "unrecognized arguments: "


class Parser(argparse.ArgumentParser):
    """Says what was probably meant where a word is not known; keeps the lines of texts as they are."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"formatter_class": argparse.RawDescriptionHelpFormatter} | options)

    def error(self, message: str) -> NoReturn:
        """As argparse does: usage and message on stderr, exit code 2."""
        super().error(message + _advice(message, self._option_string_actions))

    def parse_known_args(self, *arguments: Any, **options: Any) -> Any:
        """As argparse does, but what a verb does not know is its own error: the usage shown is the verb's."""
        found, rest = super().parse_known_args(*arguments, **options)
        if rest:
            self.error(_UNKNOWN + " ".join(rest))
        return found, rest


def add_verb(
    verbs: Any, name: str, common: argparse.ArgumentParser, text: str, epilog: str = ""
) -> argparse.ArgumentParser:
    """A verb with the common options; `text` is its line in the overview, and stands above its options."""
    verb: argparse.ArgumentParser = verbs.add_parser(name, parents=[common], help=text, description=text, epilog=epilog)
    return verb


def nearest(word: str, known: Iterable[str]) -> str:
    """The one of `known` that was probably meant, "" where none is like it."""
    import difflib

    return next(iter(difflib.get_close_matches(word, tuple(known), 1)), "")


def _advice(message: str, options: Iterable[str]) -> str:
    if found := _CHOICE.search(message):
        meant = nearest(found["word"], re.findall(r"'([^']*)'", found["known"]))
    else:
        words = message.removeprefix(_UNKNOWN).split() if message.startswith(_UNKNOWN) else []
        first = next((word.partition("=")[0] for word in words if word.startswith("-")), "")
        meant = nearest(first, options) if first else ""
    return f"; did you mean {meant}?" if meant else ""

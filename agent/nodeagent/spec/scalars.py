"""Single values of the node file: one written text and the type the schema wants give a value or a MismatchError.

What a text means depends on the key alone. YAML 1.1 would make `no` a boolean, 0x1 and 00:02:10 numbers; here they are
that only where a boolean or number is wanted, and text as it is written everywhere else.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from nodeagent.spec.document import Items, Node, Pairs, Text
from nodeagent.spec.keys import Limits

NULLS = frozenset({"~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "yes", "on"})
_FALSE = frozenset({"false", "no", "off"})
_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LONGEST_NUMBER = 18  # digits; longer ones are mistakes, and Python refuses to convert very long ones


class MismatchError(ValueError):
    """A value that is not what the schema wants: the text says what was expected and what was found."""


def read_scalar(hint: Any, node: Node, limits: Limits) -> Any:
    """The value of type `hint` (bool, int, float, str or a StrEnum) that `node` stands for; raises MismatchError."""
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _choice(hint, node, limits)
    if hint is bool:
        return _boolean(node)
    if hint is str:
        return _text(node, limits)
    return _number(node, limits, whole=hint is int)


def found(node: Node) -> str:
    """What stands in the file, in the words of an error message."""
    if isinstance(node, Items):
        return "a list"
    if isinstance(node, Pairs):
        return "a mapping"
    if node.plain:
        return _shortened(node.text) if node.text else "nothing"
    return f'"{_shortened(node.text)}"'


def nearest(word: str, choices: Iterable[str]) -> str:
    """The choice that `word` was probably meant to be, empty if none is near."""
    known = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(word.lower(), known, n=1)
    return known[near[0]] if near else ""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    near = nearest(word, choices)
    return f"; did you mean {near}" if near else ""


def number_words(limits: Limits, *, whole: bool) -> str:
    """Such as `a whole number from 68 to 65536`."""
    kind = "a whole number" if whole else "a number"
    if limits.minimum is None:
        return kind
    if limits.minimum == limits.maximum:
        return f"{limits.minimum:g}"
    return (
        f"{kind}, {limits.minimum:g} or more"
        if limits.maximum is None
        else (f"{kind} from {limits.minimum:g} to {limits.maximum:g}")
    )


def choices_of(hint: type[StrEnum], limits: Limits) -> tuple[str, ...]:
    return limits.choices or tuple(member.value for member in hint)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "..."


def _written(node: Node, expected: str) -> Text:
    if not isinstance(node, Text):
        raise MismatchError(f"expected {expected}, found {found(node)}")
    if node.plain and (not node.text or node.text in NULLS):
        raise MismatchError(f"expected {expected}, found nothing; give a value or remove the key")
    return node


def _choice(hint: type[StrEnum], node: Node, limits: Limits) -> StrEnum:
    choices = choices_of(hint, limits)
    expected = "one of " + ", ".join(choices)
    text = _written(node, expected).text
    if text not in choices:
        raise MismatchError(f"expected {expected}, found {found(node)}{did_you_mean(text, choices)}")
    return hint(text)


def _boolean(node: Node) -> bool:
    written = _written(node, "true or false")
    word = written.text.lower()
    if word not in _TRUE | _FALSE:
        raise MismatchError(f"expected true or false, found {found(node)}")
    if not written.plain:
        raise MismatchError(f"expected true or false, found {found(node)}; remove the quotes")
    return word in _TRUE


def _number(node: Node, limits: Limits, *, whole: bool) -> int | float:
    expected = number_words(limits, whole=whole)
    written = _written(node, expected)
    wrong = f"expected {expected}, found {found(node)}"
    if not (_WHOLE if whole else _DECIMAL).fullmatch(written.text) or len(written.text) > _LONGEST_NUMBER:
        raise MismatchError(wrong)
    if not written.plain:
        raise MismatchError(wrong + "; remove the quotes")
    value = int(written.text) if whole else float(written.text)
    too_small = limits.minimum is not None and value < limits.minimum
    if too_small or (limits.maximum is not None and value > limits.maximum):
        raise MismatchError(wrong)
    return value


def _text(node: Node, limits: Limits) -> str:
    listed = "one of " + ", ".join(limits.choices) if limits.choices else ""
    expected = listed or limits.expected or "text"
    text = limits.canonical(_written(node, expected).text)
    if limits.choices and text not in limits.choices:
        near = did_you_mean(text, limits.choices)  # it says enough where the list is long
        raise MismatchError(f"expected {(limits.expected if near else '') or listed}, found {found(node)}{near}")
    if limits.pattern and not re.fullmatch(limits.pattern, text):
        raise MismatchError(f"expected {expected}, found {found(node)}")
    return text

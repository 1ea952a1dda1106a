"""What a PromQL expression asks for: metrics, labels, values.

No parser: promtool and Prometheus say whether an expression is one. This reads the names out of
those that are, in the form that is used here: `by` and `without` before what is aggregated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""
    \s+ | \#[^\n]*
    | (?P<string> "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | `[^`]*` )
    | (?P<number> \d+(?:\.\d+)?(?:e[+-]?\d+)?(?:(?:ms|[smhdwy])(?:\d+(?:ms|[smhdwy]))*)? )
    | (?P<name> [A-Za-z_:][A-Za-z0-9_:]* )
    | (?P<sign> =~ | !~ | != | == | >= | <= | [-+*/%^<>=(){}\[\],@:] )
    """,
    re.VERBOSE,
)
_OPERATORS = frozenset({"and", "or", "unless", "atan2", "bool", "offset"})
_LABEL_LISTS = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})


@dataclass
class Selector:
    """A metric as an expression asks for it.

    Attributes:
        matchers: (label, operator, value).
        labels: those by which it is matched, grouped or joined.
    """

    metric: str
    matchers: list[tuple[str, str, str]] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)


def find_selectors(expression: str) -> list[Selector]:
    """Every metric that an expression names, in order."""
    tokens = list(_scan(expression))
    found: dict[int, Selector] = {}
    joined: set[str] = set()
    grouped: list[tuple[range, set[str]]] = []
    at = 0
    while at < len(tokens):
        kind, text = tokens[at]
        following = tokens[at + 1][1] if at + 1 < len(tokens) else ""
        if kind != "name" or text in _OPERATORS:
            assert text != "{", f"a selector without a name: {expression}"
        elif text in _LABEL_LISTS:
            end = _find_end(tokens, at + 1)
            labels = {name for kind, name in tokens[at + 2 : end] if kind == "name"}
            if text == "by":
                assert tokens[end + 1][1] == "(", f"what is aggregated by? {expression}"
                grouped.append((range(end + 1, _find_end(tokens, end + 1)), labels))
            elif text == "on":
                joined |= labels
            at = end
        elif following not in {"(", "by", "without"}:
            selector = found[at] = Selector(text)
            if following == "{":
                end = _find_end(tokens, at + 1)
                selector.matchers = list(_read_matchers(tokens[at + 2 : end]))
                selector.labels = {label for label, _, _ in selector.matchers}
                at = end
        at += 1
    for place, selector in found.items():
        selector.labels |= joined
        for inside, labels in grouped:
            if place in inside:
                selector.labels |= labels
    return list(found.values())


def _scan(expression: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(expression):
        token = _TOKEN.match(expression, at)
        assert token, f"not PromQL at {expression[at:]!r}"
        if token.lastgroup:
            yield token.lastgroup, token[0]
        at = token.end()


def _find_end(tokens: Sequence[tuple[str, str]], start: int) -> int:
    """Where the bracket that opens at `start` is closed."""
    depth = 0
    for at in range(start, len(tokens)):
        kind, text = tokens[at]
        if kind == "sign":
            depth += (text in "({[") - (text in ")}]")
        if depth == 0:
            return at
    raise AssertionError("a bracket is never closed")


def _read_matchers(tokens: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    for at in range(0, len(tokens), 4):
        (_, label), (_, operator), (_, value) = tokens[at : at + 3]
        yield label, operator, value[1:-1]

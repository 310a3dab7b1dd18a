"""Every phrase that the code says exists, and is filled in as it promises."""

import ast
import re
from pathlib import Path

import pytest

import touchstone
from touchstone.report.english_verbs import ENGLISH_VERBS
from touchstone.report.words import LANGUAGES, flat, marks

PHRASES = flat(LANGUAGES["en"])
VERBS = set(ENGLISH_VERBS)
SOURCES = sorted(path for folder in ("flows", "cli") for path in (Path(touchstone.__file__).parent / folder).glob("*.py"))


def calls(path):
    """Calls of `words(...)` or `….words(...)` whose key is a plain text."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if name == "words":
                yield node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_phrase_is_there_and_filled_in(path):
    for call in calls(path):
        key, given = call.args[0].value, {keyword.arg for keyword in call.keywords}
        assert key in PHRASES, f"{path.name}:{call.lineno}"
        if None not in given:  # no `**`
            assert given == marks(PHRASES[key]), f"{path.name}:{call.lineno}: {key}"


@pytest.mark.slow
def test_the_check_finds_calls():
    assert sum(1 for path in SOURCES for _ in calls(path)) > 100


@pytest.mark.slow
def test_no_phrase_of_a_verb_is_left_unused():
    said, patterns = set(), []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.add(node.value)
            elif isinstance(node, ast.JoinedStr):  # f"inspect.{name}"
                parts = [re.escape(part.value) if isinstance(part, ast.Constant) else r"\w+" for part in node.values]
                patterns.append(re.compile("".join(parts)))
    patterns = [pattern for pattern in patterns if pattern.pattern.partition("\\.")[0] in VERBS]
    unused = [
        key
        for key in PHRASES
        if key.partition(".")[0] in VERBS and key not in said and not any(pattern.fullmatch(key) for pattern in patterns)
    ]
    assert unused == []

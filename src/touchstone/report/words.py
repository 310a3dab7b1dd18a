"""Every phrase a user reads, in two languages. A phrase has a key `group.name`; `{name}` marks what is filled in.

To add one: the same key in `english.py` and in `chinese.py`, in the group of the verb or page that says it. A test holds that both
languages have the same keys and the same marks. Errors are raised in English, and `Words.told` says them in another language by a table.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping

from touchstone.config import unknown_name
from touchstone.errors import ConfigError
from touchstone.report.chinese import CHINESE
from touchstone.report.chinese_errors import CHINESE_ERRORS
from touchstone.report.chinese_usage import CHINESE_USAGE
from touchstone.report.chinese_verbs import CHINESE_VERBS
from touchstone.report.english import ENGLISH
from touchstone.report.english_verbs import ENGLISH_VERBS

__all__ = ["ERRORS", "LANGUAGES", "Words", "flat", "marks", "words"]

LANGUAGES: dict[str, dict[str, dict[str, str]]] = {"en": ENGLISH | ENGLISH_VERBS, "zh": CHINESE | CHINESE_VERBS}

ERRORS: dict[str, dict[str, str]] = {"en": {}, "zh": CHINESE_USAGE | CHINESE_ERRORS}
"""Messages of errors by the English ones, which the code has; the first that fits counts."""

_PARTS = 4  # a message within a message within a message
# marks that a message fills, and not a name
_MESSAGES = frozenset(("told", "fault", "near", "reason", "kept", "error", "refused", "said", "again"))
_LONGEST = 4000  # characters of a message that is looked for in the table


class Words:
    """The phrases of one language: `say("training.step", step=3, n_steps=9)`; an unknown key or a wrong filling is an error."""

    def __init__(self, lang: str) -> None:
        if lang not in LANGUAGES:
            raise unknown_name("language", lang, LANGUAGES)
        self.lang = lang
        self._phrases = flat(LANGUAGES[lang])

    def __call__(self, key: str, **filling: object) -> str:
        if key not in self._phrases:
            raise unknown_name("phrase", key, self._phrases)
        text = self._phrases[key]
        if filling.keys() != marks(text):
            raise ConfigError(f"The phrase `{key}` takes {sorted(marks(text))}, not {sorted(filling)}.")
        return text.format(**filling)

    def told(self, message: str) -> str:
        """The message of an error in this language; as it is where nobody has translated it."""
        return _translated(message, ERRORS[self.lang], _PARTS)

    def duration(self, seconds: float) -> str:
        """A time in its two largest units, rounded to the smaller one."""
        whole = round(seconds)
        if whole < 60:
            return self("time.seconds", s=whole)
        if whole < 3600:
            return self("time.minutes", min=whole // 60, s=whole % 60)
        minutes = round(seconds / 60)
        if minutes < 24 * 60:
            return self("time.hours", h=minutes // 60, min=minutes % 60)
        hours = round(seconds / 3600)
        return self("time.days", d=hours // 24, h=hours % 24)

    def size(self, n_bytes: float) -> str:
        """Bytes in the largest unit of 1024 that leaves at least 1, to three digits."""
        units = ["B", "KiB", "MiB", "GiB", "TiB"]
        while n_bytes >= 999.5 and len(units) > 1:
            n_bytes /= 1024
            units.pop(0)
        return f"{n_bytes:.{0 if units[0] == 'B' or n_bytes >= 99.95 else 1 if n_bytes >= 9.995 else 2}f} {units[0]}"


def words(lang: str) -> Words:
    """The phrases of a language; UnknownName, with the languages there are, for any other."""
    return Words(lang)


def flat(phrases: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The phrases of a language by their keys `group.name`."""
    return {f"{group}.{name}": text for group, names in phrases.items() for name, text in names.items()}


def marks(text: str) -> set[str]:
    """The names to be filled into a phrase."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def _translated(message: str, errors: Mapping[str, str], n_deep: int) -> str:
    """The message by the first pattern that fits it; a message that fills it is translated too, what users have named is not.

    A mark `told` stands for the message proper: where nobody has translated that, the whole stays as it is, in one language.
    """
    for english, text in errors.items() if len(message) <= _LONGEST else ():
        found = _pattern(english).fullmatch(message)
        if found is None:
            continue
        parts = found.groupdict()
        filling = {name: _translated(part, errors, n_deep - 1) if n_deep and name in _MESSAGES else part for name, part in parts.items()}
        if "told" not in parts or filling["told"] != parts["told"]:
            return text.format(**filling)
    return message


def _pattern(english: str) -> re.Pattern[str]:
    """What matches a message with whatever fills its marks."""
    parts = string.Formatter().parse(english)
    return re.compile("".join(re.escape(own) + (f"(?P<{name}>.*?)" if name else "") for own, name, _, _ in parts), re.DOTALL)

"""What of a JSON Schema is written anew before it is compiled, so that no text is allowed that the standard would not accept.

llguidance takes 29 February in every year, a leap second in any minute, and host names by their letters alone; its regular expressions
take U+FEFF for no white space. The patterns here are narrower than the standard, never wider: they write no leap seconds, and no host name
with a hyphen in the third place of a label (where `xn--` stands).
Sources: RFC 3339 §5.6 and §5.7; RFC 1123 §2.1; ECMA-262 §22.2.2.9 (white space in patterns).
"""

from collections.abc import Mapping
from typing import Any

from touchstone.errors import Unsupported

__all__ = ["rewritten"]

_YEAR_29 = r"([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)"
_DATE = (
    r"([0-9]{4}-((01|03|05|07|08|10|12)-(0[1-9]|[12][0-9]|3[01])|(04|06|09|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    rf"|{_YEAR_29}-02-29)"
)
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_ALNUM = "[A-Za-z0-9]"
_LABEL = rf"({_ALNUM}|{_ALNUM}{{2}}|{_ALNUM}[A-Za-z0-9-]{_ALNUM}([A-Za-z0-9-]{{0,59}}{_ALNUM})?)"
_FORMATS: dict[str, dict[str, Any]] = {
    "date": {"pattern": f"^{_DATE}$"},
    "time": {"pattern": f"^{_TIME}$"},
    "date-time": {"pattern": f"^{_DATE}[Tt]{_TIME}$"},
    "hostname": {"pattern": rf"^{_LABEL}(\.{_LABEL})*$", "maxLength": 253},
}
_OF_NAMES = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_OF_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_OF_ONE = ("items", "additionalProperties", "additionalItems", "contains", "not", "if", "then", "else", "propertyNames")


def rewritten(schema: Any) -> Any:
    """The schema with stricter formats and patterns, in all its parts; raises Unsupported for a pattern that cannot be kept."""
    if not isinstance(schema, Mapping):
        return schema
    new = dict(schema)
    for key in _OF_NAMES:
        if isinstance(new.get(key), Mapping):
            new[key] = {(_pattern(name) if key == "patternProperties" else name): rewritten(part) for name, part in new[key].items()}
    for key in _OF_LISTS:
        if isinstance(new.get(key), list):
            new[key] = [rewritten(part) for part in new[key]]
    for key in _OF_ONE:
        if key in new:
            new[key] = [rewritten(part) for part in new[key]] if isinstance(new[key], list) else rewritten(new[key])
    if isinstance(new.get("pattern"), str):
        new["pattern"] = _pattern(new["pattern"])
    known = _FORMATS.get(new["format"]) if isinstance(new.get("format"), str) else None
    if known is not None:
        del new["format"]
        if set(known) & set(new):  # beside the schema's own pattern or length: both must hold
            new["allOf"] = [*new.get("allOf", ()), known]
        else:
            new |= known
    return new


def _pattern(pattern: str) -> str:
    """The pattern with the white space of ECMA-262."""
    parts, place, in_class = [], 0, False
    while place < len(pattern):
        pair, char = pattern[place : place + 2], pattern[place]
        if char != "\\":
            in_class = (in_class or char == "[") and char != "]"
            parts.append(char)
            place += 1
            continue
        if pair == r"\S" and in_class:
            raise Unsupported(
                f"The pattern {pattern[:80]!r} has `\\S` between brackets, which cannot be kept exactly; write out what it takes."
            )
        white = {r"\s": r"\s\x{FEFF}" if in_class else r"[\s\x{FEFF}]", r"\S": r"[^\s\x{FEFF}]"}
        parts.append(white.get(pair, pair))
        place += 2
    return "".join(parts)

"""What is wrong with a request, in one plain sentence: pydantic finds it, and the words are ours.

What a field may be is read off the model itself (its type, its limits, and a `description` where those do not say it well), so that the
words and the check cannot differ.
"""

import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from touchstone.config import closest
from touchstone.errors import printable
from touchstone.serve.api_error import ApiError

__all__ = ["SENTENCES", "shown", "told", "unknown_field"]

_GENERAL = "`{where}`: must be {wanted}, not {got}"
_COUNTED = "`{where}`: must be {wanted}, not of {n}"

SENTENCES = {
    "missing": "`{where}` is missing",
    "union_tag_not_found": "`{where}` is missing",
    "none_required": "`{where}` is not supported; leave it out",
    "value_error": "`{where}`: {said}",
    "string_too_short": _COUNTED,
    "string_too_long": _COUNTED,
    "too_short": _COUNTED,
    "too_long": _COUNTED,
    "bool_type": _GENERAL,
    "int_type": _GENERAL,
    "float_type": _GENERAL,
    "string_type": _GENERAL,
    "list_type": _GENERAL,
    "dict_type": _GENERAL,
    "model_type": _GENERAL,
    "model_attributes_type": _GENERAL,
    "literal_error": _GENERAL,
    "union_tag_invalid": _GENERAL,
    "string_pattern_mismatch": _GENERAL,
    "greater_than": _GENERAL,
    "greater_than_equal": _GENERAL,
    "less_than_equal": _GENERAL,
}
"""The sentence for each type of error that a model of a request raises; an unknown field has `unknown_field`."""

_BY_VALUE = {"literal_error", "union_tag_invalid", "string_pattern_mismatch"}  # a text is right, but not this one
_NEAR = 0.75  # of difflib's ratio: a slip of the keys or another ending, not merely some letters alike
_MOST_SHOWN = 40
_MOST_LOOKED_AT = 1000  # problems of one request
_ANY_TAG = "*"  # stands where an error's place names the member of a union


class _Place(NamedTuple):
    """A part of a request. path: without the marks that pydantic puts for the members of unions. kinds: what may stand there."""

    path: tuple[int | str, ...]
    kinds: Sequence[Any]


def told(error: ValidationError, kind: type[BaseModel]) -> ApiError:
    """The first thing that is wrong, unknown fields before all else: ApiError (400) that names the field and what it may be."""
    problems = error.errors(include_url=False)
    problem = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
    loc = tuple(problem["loc"])
    if problem["type"] == "extra_forbidden":
        owner = _place(kind, loc[:-1])
        names = [alias or name for model in owner.kinds for name, alias in _names(model)]
        return unknown_field((*owner.path, loc[-1]), names)
    whole = problem["msg"].removeprefix("Value error, ").removesuffix(".")
    if not loc:  # a rule between fields, which names them
        return ApiError(400, f"{whole}.", param=whole.split("`")[1].partition(".")[0])
    place, problem = _deepest(problems, _place(kind, loc), problem, kind)
    value = problem["input"]
    if problem["type"].startswith("union_tag"):  # what is wrong is the field that tells the members apart
        tag = problem["ctx"]["discriminator"].strip("'")
        place, value = _place(kind, (*problem["loc"], _ANY_TAG, tag)), value.get(tag)
    return ApiError(400, _sentence(problem["type"], place, value, whole), param=str(place.path[0]))


def _sentence(problem: str, place: _Place, value: Any, said: str) -> str:
    sentence = SENTENCES.get(problem, _GENERAL).format(
        where=".".join(printable(part, _MOST_SHOWN) for part in place.path),
        wanted=_either([words for each in place.kinds for words in _wanted(each)]),
        got=shown(value, by_value=problem in _BY_VALUE),
        n=len(value) if isinstance(value, str | list | dict) else 0,
        said=said,
    )
    return f"{sentence}."


def unknown_field(path: Sequence[int | str], names: Sequence[str]) -> ApiError:
    """For a field that is not there, with the one of these that was meant if any is near. path: where it stands, itself at the end."""
    near = closest(str(path[-1]), names, n=1, cutoff=_NEAR)
    where = ".".join(printable(part, 60) for part in path)
    end = f"; did you mean `{near[0]}`?" if near else "."
    return ApiError(400, f"There is no field `{where}`{end}", param=printable(path[0], 60), code="unknown_field")


def shown(value: Any, *, by_value: bool = False) -> str:
    """A value of JSON as a sentence tells it: what kind it is; a plain number itself, and a text too if `by_value`."""
    if isinstance(value, str):
        if not value:
            return "an empty text"
        return f"`{printable(value, _MOST_SHOWN)}`" if by_value else "text"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return "null" if value is None else printable(value, _MOST_SHOWN).lower()  # True and False are written so in JSON


def _deepest(problems: Sequence[Any], place: _Place, problem: Any, kind: type[BaseModel]) -> tuple[_Place, Any]:
    """Of all that pydantic says of one place, as it does of each member of a union, what it found farthest inside: that one was meant."""
    found = [(place, problem)]
    for each in problems[:_MOST_LOOKED_AT]:
        other = _place(kind, tuple(each["loc"]))
        if other.path[: len(place.path)] == place.path:
            found.append((other, each))
    return max(found, key=lambda pair: len(pair[0].path))


def _place(kind: type[BaseModel], loc: tuple[int | str, ...]) -> _Place:
    found = list(_reached(kind, loc, ()))
    assert found, f"no place {loc} in {kind.__name__}"
    return _Place(found[0].path, [each for place in found for each in place.kinds])


def _reached(wanted: Any, loc: tuple[int | str, ...], path: tuple[int | str, ...]) -> Iterator[_Place]:
    """A place, once for each member of the unions on the way that has it."""
    members = _members(wanted)
    rest = loc[1:] if len(members) > 1 else loc  # where there is a choice, the first part names the member
    if not rest:
        yield _Place(path, [wanted])
        return
    for member in members:
        inner = _inner(_bare(member), rest[0])
        if inner is not None:
            yield from _reached(inner, rest[1:], (*path, rest[0]))


def _inner(kind: Any, part: int | str) -> Any:
    """What stands at this part of a list, an object or a model; None where there is no such part."""
    if get_origin(kind) is list and isinstance(part, int):
        return get_args(kind)[0]
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return next((field for name, field in kind.model_fields.items() if part in (name, field.alias)), None)
    return None


def _names(wanted: Any) -> Iterator[tuple[str, str | None]]:
    for member in _members(wanted):
        kind = _bare(member)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from ((name, field.alias) for name, field in kind.model_fields.items())


def _bare(wanted: Any) -> Any:
    """A type without what is noted of it."""
    if isinstance(wanted, FieldInfo):
        return _bare(wanted.annotation)
    return _bare(get_args(wanted)[0]) if get_origin(wanted) is Annotated else wanted


def _notes(wanted: Any) -> list[Any]:
    """What is noted of a type: limits and descriptions, the innermost first."""
    if isinstance(wanted, FieldInfo):
        return [*_notes(wanted.annotation), *wanted.metadata, wanted]
    if get_origin(wanted) is not Annotated:
        return []
    kind, *notes = get_args(wanted)
    return [*_notes(kind), *(inner for note in notes for inner in ([*note.metadata, note] if isinstance(note, FieldInfo) else [note]))]


def _members(wanted: Any) -> list[Any]:
    """The members of a union, null aside; a type that is none, as it is. What is noted of the union holds of each."""
    kind = _bare(wanted)
    if get_origin(kind) not in (Union, types.UnionType):
        return [wanted]
    notes = _notes(wanted)
    members = [Annotated[each, *notes] if notes else each for each in get_args(kind) if each is not types.NoneType]
    return members if len(members) > 1 else _members(members[0])


def _wanted(wanted: Any) -> list[str]:
    """What a type takes, as a sentence tells it, by its alternatives."""
    notes = _notes(wanted)
    described = [note.description for note in notes if isinstance(note, FieldInfo) and note.description]
    if described:
        return [str(described[-1])]
    members = _members(wanted)
    if len(members) > 1 or members[0] is not wanted:
        return [words for each in members for words in _wanted(each)]
    kind = _bare(wanted)
    if get_origin(kind) is Literal:
        return ["false" if each is False else f"`{each}`" for each in get_args(kind)]
    limits = {name: limit for note in notes for name in _LIMITS if (limit := getattr(note, name, None)) is not None}
    if kind in (int, float):
        return [("a whole number" if kind is int else "a number") + _range(limits)]
    if kind is str:
        return ["text" + _length(limits, "character", "characters")]
    if get_origin(kind) is list:
        return ["a list" + _length(limits, "item", "items")]
    return ["true or false" if kind is bool else "an object" + _length(limits, "entry", "entries")]


_LIMITS = ("gt", "ge", "le", "min_length", "max_length")


def _range(limits: dict[str, Any]) -> str:
    if "gt" in limits:
        return f" above {limits['gt']} and at most {limits['le']}"
    if "le" in limits:
        return f" from {limits['ge']} to {limits['le']}"
    return f" from {limits['ge']}" if "ge" in limits else ""


def _length(limits: dict[str, Any], unit: str, units: str) -> str:
    least, most = limits.get("min_length", 0), limits.get("max_length")
    if most is None:
        return f" of at least {least} {unit if least == 1 else units}" if least else ""
    return f" of {least} to {most} {units}" if least else f" of at most {most} {units}"


def _either(words: Sequence[str]) -> str:
    *before, last = dict.fromkeys(words)
    return f"{', '.join(before)} or {last}" if before else last

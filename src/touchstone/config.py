"""Settings as frozen, strict pydantic models, read from YAML, TOML or JSON files and `key=value` overrides.

A config rejects and never repairs: an unknown key, a text where a number belongs or a duplicate key is an error, and all
errors of one file are reported together with the nearest right name.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from touchstone.errors import ConfigError, UnknownName, printable

__all__ = ["Config", "apply_overrides", "closest", "differences", "load", "parse", "read_settings", "to_yaml", "unknown_name"]


class Config(BaseModel):
    """A frozen group of settings; fields are strict, unknown ones are refused with ConfigError.

    A validator raises ValueError with the rule, the value and the remedy; it never repairs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)

    if not TYPE_CHECKING:  # type checkers keep the signatures that pydantic derives from the fields

        def __init__(self, /, **data: Any) -> None:
            try:
                super().__init__(**data)
            except ValidationError as error:
                raise ConfigError(_report(error, type(self), type(self).__name__)) from None

        __init__.__pydantic_base_init__ = True  # validation of nested data does not come through here

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated as if newly made; `ConfigError` names what is wrong."""
        return parse(type(self), {**self.model_dump(mode="json"), **_plain(changes)}, source=type(self).__name__)


C = TypeVar("C", bound=Config)


def parse(kind: type[C], data: Mapping[str, Any], *, source: str = "configuration") -> C:
    """Validate plain data (as read from YAML or JSON) into a config; `source` opens the error message.

    Raises ConfigError that lists the problems at once, with the nearest right name of an unknown key.
    """
    unknown = [key for key in data if key not in kind.model_fields]
    if len(unknown) > _MOST_SHOWN:  # thousands of errors would take long to make
        named = ", ".join(f"`{printable(str(key))}`" for key in unknown[:3])
        raise ConfigError(f"{source}: {len(unknown)} unknown keys, among them {named}; there are: {', '.join(kind.model_fields)}")
    try:
        return kind.model_validate_json(json.dumps(_plain(data)))
    except ValidationError as error:
        raise ConfigError(_report(error, kind, source)) from None
    except RecursionError:
        raise ConfigError(f"{source}: lists and mappings are nested too deeply to be settings.") from None


def load(kind: type[C], path: Path | str, overrides: Iterable[str] = ()) -> C:
    """Read a settings file and apply `key=value` overrides; the file's name opens every error."""
    return parse(kind, apply_overrides(read_settings(path), overrides), source=str(path))


def read_settings(path: Path | str) -> dict[str, Any]:
    """The plain data of a `.yaml`, `.yml`, `.toml` or `.json` file; duplicate keys are refused.

    Raises ConfigError if the file is missing, malformed, not a mapping or of another kind.
    """
    path = Path(path)
    readers: dict[str, Callable[[str], Any]] = {".yaml": _read_yaml, ".yml": _read_yaml, ".toml": tomllib.loads, ".json": _read_json}
    if path.suffix not in readers:
        raise ConfigError(f"{path}: settings are read from {', '.join(readers)} files, not `{path.suffix or 'no suffix'}`.")
    try:
        data = readers[path.suffix](path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file.") from None
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not readable as {path.suffix[1:].upper()}: {_one_line(error)}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a settings file is a mapping of keys to values, this one is a {type(data).__name__}.")
    return data


def apply_overrides(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `data` with `a.b.c=value` set for each override; values are read as YAML (`1e-3` is a number).

    A number in the path indexes a list. Raises ConfigError on a malformed override or a path through a plain value.
    """
    result: dict[str, Any] = json.loads(json.dumps(_plain(data)))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"`{override}` is no override; write key=value, for example train.steps=100.")
        try:
            value = yaml.load(text, Loader=_Loader)  # a SafeLoader
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"`{override}`: the value is not readable: {_one_line(error)}") from None
        _set(result, key.strip().split("."), value, override)
    return result


def to_yaml(config: Config) -> str:
    """The config as YAML text that `load` reads back to an equal config."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def differences(old: Config, new: Config) -> list[str]:
    """One line per field that differs, `a.b: 1 -> 2`, in field order; empty if equal."""
    before, after = _flatten(old.model_dump(mode="json")), _flatten(new.model_dump(mode="json"))
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key, "absent") != after.get(key, "absent")
    ]


def closest(name: str, names: Iterable[str], n: int = 3, *, cutoff: float = 0.5) -> list[str]:
    """The names most like `name`, nearest first; at most n, none if nothing is near. cutoff: the least likeness, 1 = the same."""
    return difflib.get_close_matches(name[:_LONGEST_NAME], list(names), n=n, cutoff=cutoff)


def unknown_name(kind: str, name: str, names: Iterable[str], *, hint: str = "") -> UnknownName:
    """The error for a name that does not exist: the close ones, then all of them, then the hint."""
    known = sorted(names)
    near = closest(name, known)
    did_you_mean = f" Did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else ""
    return UnknownName(f"No {kind} `{name}`.{did_you_mean} All: {', '.join(known)}.{' ' + hint if hint else ''}")


_LONGEST_NAME = 200  # of which the search for the nearest looks at all; it takes the square of the length
_MOST_SHOWN = 40  # problems of one file; the rest is counted

_PLAIN_VALUES = {  # YAML 1.2 core schema, https://yaml.org/spec/1.2.2/#103-core-schema; decimal numbers only, without leading zeros
    "null": (r"^(~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    "bool": (r"^(true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    "int": (r"^[-+]?(0|[1-9][0-9]*)$", list("-+0123456789")),
    "float": (r"^[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$", list("-+0123456789.")),
}
_RESOLVERS: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
for _name, (_pattern, _firsts) in _PLAIN_VALUES.items():
    for _first in _firsts:
        _RESOLVERS.setdefault(_first, []).append((f"tag:yaml.org,2002:{_name}", re.compile(_pattern)))


class _Loader(yaml.SafeLoader):
    """YAML 1.2 values (in 1.1, `1e-3` is a text, `no` is false and `010` is 8); no repeated key, no alias."""

    yaml_implicit_resolvers = _RESOLVERS

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, f"`*{event.anchor}`: write the value out, aliases are not read", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain text", key_node.start_mark)
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key `{key_node.value}`", key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that `_Loader` would read as something else."""

    yaml_implicit_resolvers = _RESOLVERS

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, data: str) -> yaml.ScalarNode:
        is_odd = any(character in data for character in "\x85\u2028\u2029")  # line ends that single quotes would turn into spaces
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if is_odd else None)


_Dumper.add_representer(str, _Dumper.text)


def _read_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # a SafeLoader


def _read_json(text: str) -> Any:
    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        data = dict(pairs)
        if len(data) != len(pairs):
            repeated = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
            raise ValueError(f"duplicate key `{repeated}`")
        return data

    return json.loads(text, object_pairs_hook=no_duplicates)


def _plain(value: Any) -> Any:
    """Data that JSON can hold: configs become mappings, paths text, tuples lists."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is not None and not isinstance(value, (str, int, float)):
        raise ConfigError(f"A setting is a text, a number, a truth value, a list or a mapping, not a {type(value).__name__} ({value}).")
    return value


def _set(data: dict[str, Any] | list[Any], path: Sequence[str], value: Any, override: str) -> None:
    here: Any = data
    for place, key in enumerate(path):
        last = place == len(path) - 1
        if isinstance(here, list):
            if not key.isdecimal() or int(key) >= len(here):
                raise ConfigError(f"`{override}`: `{'.'.join(path[:place])}` is a list of {len(here)}; `{key}` is no place in it.")
            index: Any = int(key)
        elif isinstance(here, dict):
            index = key
        else:
            raise ConfigError(f"`{override}`: `{'.'.join(path[:place])}` is a plain value; it has no `{key}`.")
        if last:
            here[index] = value
        else:
            if isinstance(here, dict) and here.get(index) is None:
                here[index] = {}
            here = here[index]


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        pairs: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        pairs = enumerate(value)
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in pairs:
        flat |= _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _report(error: ValidationError, kind: type[BaseModel], source: str) -> str:
    problems = error.errors(include_url=False)
    more = f"; and {len(problems) - _MOST_SHOWN} more" if len(problems) > _MOST_SHOWN else ""
    return f"{source}: " + "; ".join(_explain(problem, kind) for problem in problems[:_MOST_SHOWN]) + more


def _explain(problem: Any, kind: type[BaseModel]) -> str:
    place = printable(".".join(str(part) for part in problem["loc"]))
    if problem["type"] == "extra_forbidden":
        near = closest(str(problem["loc"][-1]), _fields_at(kind, problem["loc"][:-1]), n=1)
        return f"unknown key `{place}`{f'; did you mean `{near[0]}`?' if near else ''}"
    if problem["type"] == "missing":
        return f"`{place}` is missing"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if problem["type"] == "value_error":
        return f"`{place}`: {message}" if place else message
    shown = repr(problem["input"])
    return f"`{place}` should be {message}, not {shown if len(shown) < 80 else shown[:77] + '…'}"


def _fields_at(kind: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    """Field names of the model that sits at `loc`, found through optionals, tuples and unions."""
    kinds = [kind]
    for part in loc:
        found = [model for owner in kinds if part in owner.model_fields for model in _models_in(owner.model_fields[part].annotation)]
        kinds = found or kinds  # list places and union tags name no field
    return [name for owner in kinds for name in owner.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

"""From what was typed to a configuration: a recipe or a settings file, then the paths, then the overrides."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from touchstone import config as settings
from touchstone.config import unknown_name
from touchstone.report.terminal import Terminal
from touchstone.train.recipes import RECIPES, recipe
from touchstone.train.run_config import RunConfig

__all__ = ["explicit_settings", "override_keys", "requested_config", "show_recipes"]

SETTINGS_FILES = (".yaml", ".yml", ".toml", ".json")
"""Endings that tell a settings file from a recipe's name."""

_MEASURED = ("train.precision", "train.micro_batch_size")  # what a run decides by measuring, unless it is told


def requested_config(
    name: str, data: Sequence[Path] = (), overrides: Sequence[str] = (), *, valid: Sequence[Path] = (), test: Sequence[Path] = ()
) -> RunConfig:
    """The configuration that a command asks for.

    name: of a recipe, or a settings file such as a run's config.yaml. valid, test: files of rows that are held out.
    Raises UnknownName with the near recipes, or ConfigError with everything that is wrong with the settings.
    """
    path = Path(name)
    if path.suffix in SETTINGS_FILES:
        read: Mapping[str, Any] = settings.read_settings(path)
        source = str(path)
    elif name in RECIPES:
        read, source = recipe(name).config.model_dump(mode="json"), f"recipe {name}"
    else:
        raise unknown_name("recipe", name, RECIPES, hint="Sizes and times: `touchstone train --list`; a settings file ends in .yaml.")
    changed = settings.apply_overrides(read, overrides)
    if data:
        given = changed.get("data") or {}
        changed["data"] = {**given, "sources": [str(path) for path in data], "corpus": None}
    held_out = {key: [str(path) for path in paths] for key, paths in (("valid_sources", valid), ("test_sources", test)) if paths}
    if held_out:
        changed["data"] = {**(changed.get("data") or {}), **held_out}
    return settings.parse(RunConfig, changed, source=source)


def override_keys(overrides: Sequence[str]) -> set[str]:
    """The settings that overrides name."""
    return {override.partition("=")[0].strip() for override in overrides}


def explicit_settings(name: str, overrides: Sequence[str]) -> set[str]:
    """The settings that a command fixes, so that nothing is measured for them: by its overrides, or in its settings file."""
    keys = override_keys(overrides)
    if Path(name).suffix in SETTINGS_FILES:
        train = settings.read_settings(name).get("train")
        keys |= {key for key in _MEASURED if isinstance(train, dict) and key.partition(".")[2] in train}
    return keys


def show_recipes(terminal: Terminal) -> dict[str, Any]:
    """All recipes with what they take."""
    words = terminal.words
    found = {name: make() for name, make in RECIPES.items()}
    rows = [
        (name, f"{r.parameters:,}" if r.parameters else "-", words.duration(60 * r.minutes), words.size(r.memory_bytes), r.about)
        for name, r in found.items()
    ]
    headers = ("name", "parameters", "time", "memory", "about")
    terminal.table([words(f"recipes.{header}") for header in headers], rows)
    terminal.say(words("recipes.note"), style="dim")
    listed = [
        {"name": name, "parameters": r.parameters, "minutes": r.minutes, "memory_bytes": r.memory_bytes, "about": r.about}
        for name, r in found.items()
    ]
    return {"status": "ok", "recipes": listed}

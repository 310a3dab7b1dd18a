"""The files around the package: what is installed, what the commands are, under which licence."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def name_of(requirement):
    return re.match(r"[\w.-]+", requirement).group().lower().replace("_", "-").replace(".", "-")


def test_every_direct_dependency_but_torch_has_one_exact_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {name_of(line) for group in [project["dependencies"], *project["optional-dependencies"].values()] for line in group}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert wanted - {name_of(line) for line in lines} == {"torch", "touchstone-lm"}


def test_every_command_of_the_makefile_is_listed_with_what_it_does():
    text = (ROOT / "Makefile").read_text()
    commands = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE).group(1).split())
    assert set(re.findall(r"^([a-z-]+):.*## \S", text, re.MULTILINE)) == commands


def test_continuous_integration_runs_the_one_command():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "set -euo pipefail" in script.read_text()
    assert script.read_text().rstrip().endswith("exec make test")


def test_a_python_on_the_path_that_does_not_run_is_passed_over(tmp_path):
    shim = tmp_path / "python3.13"  # as a version manager leaves it
    shim.write_text("#!/bin/sh\necho 'version 3.13 is not installed' >&2\nexit 127\n")
    old = tmp_path / "python3.12"
    old.write_text("#!/bin/sh\nexit 1\n")  # answers no to every question, as a Python 3.9 would
    good = tmp_path / "python3.11"
    good.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for path in (shim, old, good):
        path.chmod(0o755)
    found = subprocess.run(
        [ROOT / "scripts" / "find-python"], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    assert found.stdout == "python3.11\n"
    assert found.stderr == ""


def test_a_python_that_was_named_is_tried_first(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    mine.chmod(0o755)
    found = subprocess.run(
        [ROOT / "scripts" / "find-python"], env={"PATH": "/usr/bin:/bin", "PYTHON": str(mine)}, capture_output=True, text=True, check=True
    )
    assert found.stdout == f"{mine}\n"


@pytest.mark.parametrize("part", ["Apache License", "Version 2.0, January 2004", "END OF TERMS AND CONDITIONS", "Grant of Patent License"])
def test_the_licence_is_the_whole_of_apache_2(part):
    assert part in (ROOT / "LICENSE").read_text()


def test_the_changelog_begins_with_what_is_not_released():
    sections = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] == "[Unreleased]"

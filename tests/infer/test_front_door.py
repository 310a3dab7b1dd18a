import subprocess
import sys

import pytest

import touchstone


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout.strip()


def test_importing_the_package_imports_nothing_heavy():
    heavy = "torch numpy pydantic tokenizers importlib.metadata"
    code = (
        f"import sys; before = set(sys.modules); import touchstone; print([n for n in '{heavy}'.split() if n in set(sys.modules) - before])"
    )
    assert run(code) == "[]"


def test_the_names_of_the_front_door_are_those_of_the_language_model():
    from touchstone.infer import language_model, loading

    assert touchstone.load is loading.load
    assert touchstone.save is loading.save
    assert touchstone.LanguageModel is language_model.LanguageModel
    assert dir(touchstone) == sorted(touchstone.__all__) == ["LanguageModel", "__version__", "load", "save"]


def test_the_version_is_the_distributions():
    from importlib.metadata import version

    assert touchstone.__version__ == version("touchstone-lm")


def test_a_name_that_is_not_there_says_what_is():
    with pytest.raises(AttributeError, match=r"`lod`.*load"):
        _ = touchstone.lod

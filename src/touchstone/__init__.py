"""Touchstone: a language model you trained or downloaded, and can trust, because everything it claims was measured.

    import touchstone

    model = touchstone.load("path/to/folder")
    print(model.generate("The quick brown fox", max_new_tokens=50, temperature=0.8, seed=1)[0].text)
    print(model.rolling(["some text"])[0].bits_per_byte)
    touchstone.save(model, "out/")

Importing the package loads nothing heavy; the first use of a name does.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from touchstone.infer.language_model import LanguageModel
    from touchstone.infer.loading import load, save

    __version__: str

__all__ = ["LanguageModel", "__version__", "load", "save"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("touchstone-lm")
    if name in __all__:
        from touchstone import infer

        return getattr(infer, name)
    raise AttributeError(f"module `touchstone` has no attribute `{name}`; it has {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return sorted(__all__)

"""Named corpora that need no download.

`python` is the source of the running interpreter's standard library: on every machine, about ten megabytes, and its licence
travels with the interpreter.
"""

import io
import re
import sysconfig
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

from touchstone.config import unknown_name
from touchstone.errors import DataError
from touchstone.text.document import Document

__all__ = ["CORPORA", "corpus", "python_library"]


def corpus(name: str) -> Iterator[Document]:
    """The documents of a named corpus, always in the same order; UnknownName lists the names there are."""
    if name not in CORPORA:
        raise unknown_name("corpus", name, CORPORA, hint="Text of your own is named by its path.")
    return CORPORA[name]()


def python_library(root: Path | None = None) -> Iterator[Document]:
    """The hand-written source files of the standard library, in order of their paths; `source` is the path below the library.

    root: the library's folder; None is that of the running interpreter.
    Left out: tests, installed packages, what a build wrote for one machine, and generated files, whose tables are no language.
    """
    root = root or Path(sysconfig.get_path("stdlib"))
    n_documents = 0
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        name = path.relative_to(root)
        if _is_left_out(name) or not path.resolve().is_relative_to(root.resolve()):  # a link out leads to settings of this machine
            continue
        text = _decode(path)
        if text.strip() and not (name.parts[0] == "encodings" and _CODEC_TABLE.search(text)):
            n_documents += 1
            yield Document(text, name.as_posix())
    if not n_documents:
        raise DataError(f"{root}: this interpreter has no source of its standard library; name a folder of text of your own.")


CORPORA: dict[str, Callable[[], Iterator[Document]]] = {"python": python_library}
"""Each name with the function that reads it."""

_TESTS = {"test", "tests", "idle_test"}
_INSTALLED = {"site-packages", "dist-packages", "_bundled"}
_LEFT_OUT_FOLDERS = _TESTS | _INSTALLED | {"__pycache__", "lib-dynload", "pydoc_data"}
_MACHINE_FILE = re.compile(r"_sysconfigdata.*|sitecustomize\.py|usercustomize\.py|_distutils_system_mod\.py")
_TABLE_FILES = {"html/entities.py", "stringprep.py"}  # written by scripts of CPython's Tools folder from tables of other standards
_CODEC_TABLE = re.compile(r"gencodec|decoding_table|decoding_map|^import _codecs_", re.MULTILINE)


def _is_left_out(name: Path) -> bool:
    folders = name.parts[:-1]
    return (
        any(folder in _LEFT_OUT_FOLDERS or folder.startswith("config-") for folder in folders)
        or _MACHINE_FILE.fullmatch(name.name) is not None
        or name.as_posix() in _TABLE_FILES
    )


def _decode(path: Path) -> str:
    data = path.read_bytes()
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    return data.decode(encoding).replace("\r\n", "\n")

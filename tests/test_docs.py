"""What the documents say is there is there: links, files, names, examples and their output, and the tree in the README."""

import ast
import contextlib
import importlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "touchstone"
READMES = [ROOT / name for name in ("README.md", "README.zh.md")]
PAGES = sorted((ROOT / "docs").rglob("*.md")) + [page for page in READMES if page.exists()]

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!\!)\[[^\]\n]+\]\(([^)\s]+)\)|!\[[^\]\n]*\]\(([^)\s]+)\)|<(?:img|source)[^>]+(?:src|srcset)=\"([^\"]+)\"")
FILE = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|md))`")
NAME = re.compile(r"`(touchstone(?:\.\w+)+)`")

every_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def prose(page):
    """A page without its code blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page):
    """The names that a link may jump to: the headings in lower case, spaces as hyphens, punctuation left out."""
    headings = re.findall(r"^#+ +(.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page):
    broken = []
    for target in (next(filter(None, groups)) for groups in LINK.findall(prose(page))):
        if re.match(r"[a-z]+:", target):  # another site; tests use no network
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        if not goal.exists() or (anchor and goal.suffix == ".md" and anchor not in anchors(goal)):
            broken.append(target)
    assert broken == []


@every_page
def test_files_that_are_named_exist(page):
    places = [ROOT, PACKAGE, page.parent]
    assert [name for name in FILE.findall(prose(page)) if not any((place / name).exists() for place in places)] == []


def resolves(name):
    """Whether a dotted name is a module, or something inside one."""
    parts = name.split(".")
    for n_module in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n_module]))
        except ModuleNotFoundError:
            continue
        try:
            for part in parts[n_module:]:
                found = getattr(found, part)
        except AttributeError:
            return False
        return True
    return False


@every_page
def test_names_of_the_package_exist(page):
    assert [name for name in NAME.findall(prose(page)) if not resolves(name)] == []


def test_a_name_that_does_not_exist_would_be_found():
    assert resolves("touchstone.nn.attention.reference")
    assert not resolves("touchstone.nn.attention.no_such_kernel")
    assert not resolves("touchstone.no_such_module.reference")


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in READMES], ids=[str(page.relative_to(ROOT)) for page in PAGES if page not in READMES]
)
def test_examples_run_and_print_what_the_page_says(page, tmp_path, monkeypatch):
    """The ```python blocks of a page run in order and share their names; a ```text block right after one is its output."""
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    names = {"__name__": "example"}
    blocks = list(FENCE.finditer(text))
    for number, block in enumerate(blocks):
        if block[1] != "python":
            continue
        printed = io.StringIO()
        line = text[: block.start(2)].count("\n")
        code = compile("\n" * line + block[2], str(page), "exec")  # so that an error shows the line of the page
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        after = blocks[number + 1] if number + 1 < len(blocks) else None
        if after is not None and after[1] == "text" and not text[block.end() : after.start()].strip():
            assert printed.getvalue().rstrip("\n") == after[2].rstrip("\n")


@every_page
def test_examples_are_python(page):
    for language, code in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            ast.parse(code)


def tree_of(page):
    """File -> its line, from where a page draws src/touchstone/ to the next empty line: one file a line, folders end in a slash."""
    files, folders = {}, []
    for line in page.read_text(encoding="utf-8").splitlines():
        drawn = re.match(r"^([\s│├└─]*)(\S+)\s*(.*)$", line)
        depth, name, words = (len(drawn[1]), drawn[2], drawn[3]) if drawn else (0, "", "")
        if name == "src/touchstone/" and not folders:
            folders = [(depth, "")]
        elif folders and (not name or depth <= folders[0][0]):
            break
        elif folders:
            while folders[-1][0] >= depth:
                folders.pop()
            path = folders[-1][1] + name
            if name.endswith("/"):
                folders.append((depth, path))
            else:
                files[path] = words
    assert folders, f"{page.name} has no line `src/touchstone/` with the tree under it"
    return files


@pytest.mark.parametrize("page", READMES, ids=[page.name for page in READMES])
def test_the_tree_in_the_readme_is_the_tree(page):
    if not page.exists():
        pytest.skip(f"{page.name} is not written yet")
    drawn = tree_of(page)
    real = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    listed = {name for name in drawn if name.endswith(".py") and not name.endswith("__init__.py")}
    assert sorted(real - listed) == [], "files that the README does not list"
    assert sorted(listed - real) == [], "files that the README lists and that are not there"
    assert [name for name, words in drawn.items() if not words] == [], "files without a word about them"


def test_the_tree_reader_reads_a_tree(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```\nREADME.md      this\nsrc/touchstone/\n  errors.py    what may be caught\n  nn/          parts\n    norm.py    norms\n"
        "    deep/\n      er.py    deeper\n  files/       saving\n    atomic.py\ntests/         mirrors\n  test_x.py  x\n```\n",
        encoding="utf-8",
    )
    assert tree_of(page) == {"errors.py": "what may be caught", "nn/norm.py": "norms", "nn/deep/er.py": "deeper", "files/atomic.py": ""}

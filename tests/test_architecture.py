"""The shape of the package: layers, names, sizes, and what may be printed, loaded and imported. Read from the source, nothing is run.

Each rule is a function from a source tree to a list of faults, and is tried on a small tree that breaks it.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "touchstone"

LAYERS = [  # from the bottom; names of one row do not import each other; the first three rows are layer 0
    {"errors"},
    {"apart", "config", "runtime", "files", "stats"},
    {"report"},
    {"text", "nn", "calibrate"},
    {"models"},
    {"train", "infer"},
    {"adapt", "prompt", "explain"},
    {"tasks"},
    {"evaluate", "trust"},
    {"serve", "bench"},
    {"flows"},
    {"cli", "touchstone"},
]
RANK = {name: place for place, names in enumerate(LAYERS) for name in names}

EXECUTES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
LOADERS = {"torch.load", "torch.save", "torch.jit.load", "torch.export.load", "torch.hub.load"}
DRAWS = {"rich", "matplotlib"}
SPEAKERS = {"report", "cli"}
MAX_LINES = 500


def modules(source: Path) -> dict[str, ast.Module]:
    """Every module by its dotted name, packages as themselves, the root as `touchstone`."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        parts = ["touchstone", *path.relative_to(source).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = _parsed(path.read_text("utf-8"))
    return found


def imported(name: str, tree: ast.Module, known: set[str], *, top_only: bool = False) -> Iterator[tuple[str, int]]:
    """Names of modules that a module imports, with the line, inside functions and under TYPE_CHECKING too unless `top_only`."""
    is_package = any(other.startswith(name + ".") for other in known) or name == "touchstone"
    for node in _at_the_top(tree) if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")[: len(name.split(".")) - node.level + is_package] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield (f"{origin}.{alias.name}" if f"{origin}.{alias.name}" in known else origin), node.lineno
        elif isinstance(node, ast.Call) and node.args and _called(node.func) in ("importlib.import_module", "import_module", "__import__"):
            yield str(getattr(node.args[0], "value", "")), node.lineno


def room(module: str) -> str:
    """The first part below the root; the root itself is `touchstone`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "touchstone"


def layer_faults(source: Path) -> list[str]:
    """Imports that go up or sideways, and rooms that the table does not have."""
    trees, faults = modules(source), []
    for name, tree in trees.items():
        here = room(name)
        if here not in RANK:
            faults.append(f"{name}: `{here}` is in no layer")
            continue
        for target, line in imported(name, tree, set(trees)):
            if not (target == "touchstone" or target.startswith("touchstone.")):
                continue
            there = room(target)
            if there != here and (there not in RANK or RANK[there] >= RANK[here]):
                faults.append(f"{name}:{line}: imports {target}, which is not below it")
    return faults


def cycles(source: Path) -> list[str]:
    """Circles of modules that import each other, one a starting module."""
    trees = modules(source)
    edges = {name: {t for t, _ in imported(name, tree, set(trees)) if t in trees and t != name} for name, tree in trees.items()}
    done: set[str] = set()
    found = []

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            found.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for target in sorted(edges[name]):
                walk(target, [*path, name])
            done.add(name)

    for name in trees:
        walk(name, [])
    return found


def shared_names(source: Path) -> list[str]:
    """File names that two modules have."""
    places: dict[str, list[str]] = {}
    for path in sorted(source.rglob("*.py")):
        if path.name not in ("__init__.py", "__main__.py"):
            places.setdefault(path.name, []).append(path.relative_to(source).as_posix())
    return [f"{name}: {', '.join(paths)}" for name, paths in places.items() if len(paths) > 1]


def speaking_faults(source: Path) -> list[str]:
    """Printing or drawing outside the rooms for it."""
    trees, faults = modules(source), []
    for name, tree in trees.items():
        if room(name) in SPEAKERS:
            continue
        for node in ast.walk(tree):
            called = _called(node.func) if isinstance(node, ast.Call) else ""
            if called == "print" or called.startswith(("sys.stdout.write", "sys.stderr.write", "typer.echo")):
                faults.append(f"{name}:{node.lineno}: {called}")
        faults += [f"{name}:{line}: imports {t}" for t, line in imported(name, tree, set(trees)) if t.split(".")[0] in DRAWS]
    return faults


def execution_faults(source: Path) -> list[str]:
    """Anything that runs code from a data file: pickle and its kin, torch's loaders, NumPy's permission for them."""
    trees, faults = modules(source), []
    for name, tree in trees.items():
        for target, line in imported(name, tree, set(trees)):
            if target.split(".")[0] in EXECUTES:
                faults.append(f"{name}:{line}: imports {target}")
        aliases = _aliases(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute | ast.Name) and _called(node, aliases) in LOADERS:
                faults.append(f"{name}:{node.lineno}: {_called(node, aliases)}")
            if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "trust_remote_code", "weights_only"):
                is_false = isinstance(node.value, ast.Constant) and node.value.value is False
                if not is_false or node.arg == "weights_only":
                    faults.append(f"{name}:{node.value.lineno}: {node.arg}")
            if isinstance(node, ast.Call) and _called(node.func) in ("eval", "exec"):
                faults.append(f"{name}:{node.lineno}: {_called(node.func)}")
    return sorted(set(faults))


def long_files(source: Path, most: int = MAX_LINES) -> list[str]:
    sizes = {path: len(path.read_text("utf-8").splitlines()) for path in sorted(source.rglob("*.py"))}
    return [f"{path.relative_to(source)}: {n} lines" for path, n in sizes.items() if n > most]


def torch_at_the_top(source: Path, starts: tuple[str, ...]) -> list[str]:
    """Ways by which importing one of `starts` imports torch; imports inside functions and under TYPE_CHECKING do not count."""
    trees = modules(source)
    found, seen = [], set()
    waiting = [(start,) for start in starts if start in trees]
    while waiting:
        path = waiting.pop(0)
        for target, _ in imported(path[-1], trees[path[-1]], set(trees), top_only=True):
            if target.split(".")[0] in ("torch", "transformers") or target.startswith("safetensors.torch"):
                found.append(" -> ".join([*path, target]))
            parts = target.split(".")
            for n in range(1, len(parts) + 1):  # importing a.b.c imports a and a.b first
                module = ".".join(parts[:n])
                if module in trees and module not in seen:
                    seen.add(module)
                    waiting.append((*path, module))
    return found


@functools.cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _at_the_top(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and _called(node.test).endswith("TYPE_CHECKING"):
            continue
        yield node
        yield from _at_the_top(node)


def _aliases(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for: `import torch as t` and `from torch import load as l`."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _called(node: ast.AST, aliases: dict[str, str] | None = None) -> str:
    """The dotted name of an expression, empty if it is none."""
    if isinstance(node, ast.Name):
        return (aliases or {}).get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{base}.{node.attr}" if (base := _called(node.value, aliases)) else ""
    return ""


@pytest.mark.slow
def test_imports_go_down_only():
    assert layer_faults(SOURCE) == []


@pytest.mark.slow
def test_no_module_imports_itself_in_a_circle():
    assert cycles(SOURCE) == []


def test_no_two_modules_share_a_name():
    assert shared_names(SOURCE) == []


@pytest.mark.slow
def test_only_report_and_cli_print_or_draw():
    assert speaking_faults(SOURCE) == []


@pytest.mark.slow
def test_nothing_runs_code_from_a_data_file():
    assert execution_faults(SOURCE) == []


def test_no_file_is_too_long_to_read():
    assert long_files(SOURCE) == []


def test_the_package_the_command_and_the_torch_free_rooms_import_no_torch():
    rooms = {
        name for name in modules(SOURCE) if room(name) in ("text", "calibrate", "report", "stats", "files", "config", "runtime", "cli")
    }
    assert torch_at_the_top(SOURCE, ("touchstone", *sorted(rooms))) == []


@pytest.fixture
def tree(tmp_path):
    """Write modules below a root of their own; every package gets an empty `__init__.py`."""

    def write(files):
        for name, text in {"__init__.py": "", **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / "__init__.py").touch()
            path.write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"text/read.py": "from touchstone.models import spec", "models/spec.py": ""}, "text.read:1: imports touchstone.models.spec"),
        ({"nn/norm.py": "def f():\n    import touchstone.text.read", "text/read.py": ""}, "nn.norm:2: imports touchstone.text.read"),
        ({"files.py": "from touchstone.config import Config", "config.py": ""}, "files:1: imports touchstone.config"),
        ({"train/a.py": "from ..infer import b", "infer/b.py": ""}, "train.a:1: imports touchstone.infer.b"),
        ({"models/a.py": "import importlib\nimportlib.import_module('touchstone.cli.main')"}, "models.a:2: imports touchstone.cli.main"),
        ({"models/a.py": "if TYPE_CHECKING:\n    from touchstone.infer import engine", "infer/engine.py": ""}, "models.a:2"),
        ({"cli/main.py": "from touchstone import load"}, "cli.main:1: imports touchstone, which"),
        ({"models/a.py": "from touchstone.utils import b", "utils.py": ""}, "models.a:1: imports touchstone.utils"),
        ({"utils.py": ""}, "`utils` is in no layer"),
    ],
)
def test_an_import_up_or_sideways_is_found(tree, files, fault):
    assert any(fault in found for found in layer_faults(tree(files)))


def test_imports_down_and_within_a_package_are_no_faults(tree):
    files = {
        "errors.py": "",
        "nn/norm.py": "from touchstone.errors import X\nimport torch",
        "nn/block.py": "from touchstone.nn.norm import Y\nfrom . import norm",
        "models/__init__.py": "from touchstone.models.spec import S",
        "models/spec.py": "from touchstone.nn import block",
        "__init__.py": "def __getattr__(name):\n    from touchstone.models import spec",
    }
    assert layer_faults(tree(files)) == []
    assert cycles(tree(files)) == []


def test_a_circle_is_found_even_through_functions(tree):
    found = cycles(
        tree(
            {
                "nn/a.py": "from touchstone.nn import b",
                "nn/b.py": "def f():\n    from touchstone.nn.c import x",
                "nn/c.py": "from . import a",
            }
        )
    )
    assert found == ["touchstone.nn.a -> touchstone.nn.b -> touchstone.nn.c -> touchstone.nn.a"]


def test_a_shared_name_is_found(tree):
    assert shared_names(tree({"nn/spec.py": "", "models/spec.py": ""})) == ["spec.py: models/spec.py, nn/spec.py"]


@pytest.mark.parametrize(
    "text",
    [
        "print('x')",
        "def f():\n    print(1)",
        "import sys\nsys.stdout.write('x')",
        "import rich.table",
        "def f():\n    from matplotlib import cm",
    ],
)
def test_printing_and_drawing_are_found_outside_their_rooms_only(tree, text):
    assert len(speaking_faults(tree({"models/a.py": text}))) == 1
    assert speaking_faults(tree({"models/a.py": "", "report/b.py": text, "cli/c.py": text})) == []


@pytest.mark.parametrize(
    "text",
    [
        *(
            "import pickle",
            "from dill import loads",
            "def f():\n    import joblib",
            "import cloudpickle as c",
            "import shelve",
            "import marshal",
        ),
        *(
            "import torch\ntorch.load('x')",
            "import torch as t\nt.load('x')",
            "from torch import load as l\nl('x')",
            "import torch\ng = torch.load",
        ),
        *("import torch\ntorch.save({}, 'x')", "import torch\ntorch.jit.load('x')", "eval('1')", "exec('1')"),
        *(
            "import numpy as np\nnp.load('x', allow_pickle=True)",
            "np.load('x', allow_pickle=ok)",
            "f(trust_remote_code=True)",
            "f(weights_only=True)",
        ),
    ],
)
def test_what_could_run_code_from_a_file_is_found(tree, text):
    assert execution_faults(tree({"models/a.py": text}))


@pytest.mark.parametrize(
    "text", ["np.load('x', allow_pickle=False)", "touchstone.load('x')", "json.load(f)", "model.eval()", "'torch.load'"]
)
def test_what_only_looks_like_it_is_not(tree, text):
    assert execution_faults(tree({"models/a.py": text})) == []


def test_a_long_file_is_found(tree):
    assert long_files(tree({"models/a.py": "x = 1\n" * 501, "models/b.py": "x = 1\n" * 500})) == ["models/a.py: 501 lines"]


def test_torch_is_found_through_other_modules_and_packages(tree):
    files = {
        "__init__.py": "import touchstone.text.read",
        "text/read.py": "from touchstone.nn.norm import x\ndef f():\n    import torch",
        "nn/__init__.py": "from touchstone.nn.block import y",
        "nn/norm.py": "",
        "nn/block.py": "if True:\n    import torch.nn",
    }
    assert torch_at_the_top(tree(files), ("touchstone",)) == [
        "touchstone -> touchstone.text.read -> touchstone.nn -> touchstone.nn.block -> torch.nn"
    ]
    assert torch_at_the_top(tree({**files, "nn/block.py": "if TYPE_CHECKING:\n    import torch"}), ("touchstone",)) == []

"""The shape of the house, read from the source: imports point down the table, files stay short,
nothing unpickles.

Knows the table of rooms; must not import any of them: everything is read with `ast`.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ppl_vae"
# A room (a file, or a folder with all its files) imports only from the rooms before it.
ROOMS = (
    "terminal",
    "wording",
    "checks",
    "distributions",
    "protocols",
    "tables",
    "plots",
    "files",
    "generators",
    "permutation",
    "inputs",
    "data_files",
    "array_files",
    "datasets",
    "parts",
    "networks",
    "likelihoods",
    "graphs",
    "handlers",
    "priors",
    "guides",
    "weights",
    "vae",
    "elbo",
    "checkpoint",
    "exporting",
    "training",
    "evaluation",
    "sampling",
    "diagnostics",
    "study",
    "cli",
    "testing",
    "__main__",
    "__init__",
)
# Libraries that one room wraps for all the others.
ONLY_IN = {"arviz": "diagnostics", "joblib": "study", "pickle": "datasets"}
NEVER = ("cloudpickle", "dill", "marshal", "shelve", "yaml")
NEVER_CALLED = ("torch.load", "torch.save", "joblib.load", "numpy.save")

FILES = sorted(PACKAGE.rglob("*.py"))
STUDIES = sorted((ROOT / "studies").glob("*.py"))


def room(path: Path) -> str:
    """The room a file of the package is in: its own stem, or the name of the folder under the
    package.
    """
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST, package: tuple[str, ...] = ("ppl_vae",)) -> Iterator[str]:
    """Dotted names of everything imported anywhere in `tree`, a file directly inside `package`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            prefix = ".".join((*base, *(node.module.split(".") if node.module else ())))
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def imports_upwards(tree: ast.AST, here: str, package: tuple[str, ...] = ("ppl_vae",)) -> list[str]:
    """Imports of `here`'s that point to a later room, to the package's face, or to no room at
    all.
    """
    own = [name.split(".") for name in imported(tree, package) if name.split(".")[0] == "ppl_vae"]
    known = ROOMS[: ROOMS.index(here)] + (here,) * (here != "__init__")
    return [
        ".".join(name)
        for name in own
        if name[1:2] != ["__version__"] and [*name, ""][1] not in known
    ]


def forbidden_libraries(tree: ast.AST, here: str) -> list[str]:
    """Imports and calls of libraries that belong to another room or to none."""
    tops = [name.split(".")[0] for name in imported(tree)]
    wrong = [top for top in tops if top in NEVER or ONLY_IN.get(top, here) != here]
    called = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    keywords = [node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)]
    names = [name for name in imported(tree) if name in NEVER_CALLED]
    return (
        wrong
        + names
        + [c for c in called if c in (*NEVER_CALLED, "eval", "exec")]
        + ["allow_pickle"] * keywords.count("allow_pickle")
    )


def undocumented(tree: ast.Module) -> list[str]:
    """Public functions and classes at the top of a file, and the file itself, that have no
    docstring.
    """
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [
        node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")
    ]
    missing = [node.name for node in public if not ast.get_docstring(node)]
    return missing if ast.get_docstring(tree) else ["the file itself", *missing]


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
class TestPackageFile:
    def test_imports_point_down_the_table(self, path: Path) -> None:
        assert room(path) in ROOMS, f"{path.name} has no row in the table of rooms"
        package = ("ppl_vae", *path.relative_to(PACKAGE).parts[:-1])
        assert imports_upwards(parsed(path), room(path), package) == []

    def test_libraries_stay_in_their_room(self, path: Path) -> None:
        assert forbidden_libraries(parsed(path), room(path)) == []

    def test_is_documented(self, path: Path) -> None:
        assert undocumented(parsed(path)) == []


def test_studies_are_documented() -> None:
    assert [path.name for path in STUDIES if not ast.get_docstring(parsed(path))] == []


@pytest.mark.parametrize(
    ("source", "here", "package"),
    [
        ("from ppl_vae.vae import VAE", "networks", ("ppl_vae",)),
        ("from ppl_vae import vae", "networks", ("ppl_vae",)),
        ("import ppl_vae.vae as v", "networks", ("ppl_vae",)),
        ("from . import vae", "networks", ("ppl_vae",)),
        ("from .. import vae", "priors", ("ppl_vae", "priors")),
        ("from ..guides.point import Point", "priors", ("ppl_vae", "priors")),
        ("def f():\n    from ppl_vae.cli import main", "study", ("ppl_vae",)),
        ("from ppl_vae import build", "cli", ("ppl_vae",)),
        ("import ppl_vae", "cli", ("ppl_vae",)),
    ],
)
def test_an_import_that_points_up_is_seen(source: str, here: str, package: tuple[str, ...]) -> None:
    assert len(imports_upwards(ast.parse(source), here, package)) == 1


@pytest.mark.parametrize(
    ("source", "here"),
    [
        ("from ppl_vae import checks, __version__", "vae"),
        ("from ppl_vae.priors.vamp import Vamp", "priors"),
        ("import torch, ppl_vae.checks", "datasets"),
    ],
)
def test_an_import_that_points_down_or_into_the_same_room_is_allowed(
    source: str, here: str
) -> None:
    assert imports_upwards(ast.parse(source), here) == []


@pytest.mark.parametrize(
    "source",
    [
        "import arviz as az",
        "from joblib import Parallel",
        "import pickle",
        "from torch import load",
        "torch.load(path)",
        "numpy.load(path, allow_pickle=True)",
        "eval(text)",
    ],
)
def test_a_library_outside_its_room_is_seen(source: str) -> None:
    assert len(forbidden_libraries(ast.parse(source), "vae")) == 1


def test_a_missing_docstring_is_seen() -> None:
    tree = ast.parse(
        'def f():\n    """Text."""\n    a = 1\n\n    return a\n\n\nclass B:\n    pass\n'
    )
    assert undocumented(tree) == ["the file itself", "B"]

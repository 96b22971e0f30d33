"""The source text that a cell's rows depend on: of the package, of `run`, and of the modules that
stand beside the script and that `run` imports.

Knows Python's syntax; must not import what it reads. Comments, docstrings and layout are left out,
so that a change of them changes nothing.
"""

import ast
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def fingerprint(script: Path) -> str:
    """sha256 of all the source that the rows of a study depend on.

    Args:
        script: where the study's script is.
    """
    run = source_behind("run", script.read_text(encoding="utf-8"))
    helpers = {
        path.relative_to(script.parent).as_posix(): text
        for path, text in helpers_behind(run, script.parent).items()
    }
    text = json.dumps([run, helpers, package_source()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def package_source() -> dict[str, str]:
    """The source of every file of this package, by its path in it."""
    return {
        path.relative_to(PACKAGE).as_posix(): plain(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def plain(text: str) -> str:
    """A module's source without comments, docstrings and layout.

    Args:
        text: the source.
    """
    return ast.unparse(_without_docstrings(ast.parse(text)))


def source_behind(name: str, text: str) -> str:
    """The top-level statements of a script that a name reaches.

    Comments, docstrings and layout are left out. What `run` does not reach (the drawing, the
    docstring, the grid) is no part of it, so it may change while rows stay. A call that stands
    alone at the top may change anything, so it belongs to every name.

    Args:
        name: a name that the script gives a meaning to, such as "run".
        text: the script's source.
    """
    statements = [
        (_bound(statement), statement) for statement in _without_docstrings(ast.parse(text)).body
    ]
    reached: set[str] = set()
    frontier = {name}
    frontier |= {
        used for _, node in statements if isinstance(node, ast.Expr) for used in _used(node)
    }
    while frontier:
        reached |= frontier
        frontier = {
            used for bound, node in statements if bound & reached for used in _used(node)
        } - reached
    return "\n".join(
        ast.unparse(node)
        for bound, node in statements
        if bound & reached or isinstance(node, ast.Expr)
    )


def helpers_behind(source: str, folder: Path) -> dict[Path, str]:
    """The source of the modules that a script imports, and of those that they import in turn.

    A file that a text names as "path.py" or "path.py:Name", as a part of one's own is named, counts
    as imported.

    Args:
        source: the source of a script in the folder.
        folder: where the modules are; what lies elsewhere is left out.

    Returns:
        {path: source}.
    """
    found: dict[Path, str] = {}
    waiting = [(ast.parse(source), folder)]
    while waiting:
        tree, home = waiting.pop()
        for path in _files_of(tree, folder, home):
            if path not in found:
                found[path] = plain(path.read_text(encoding="utf-8"))
                waiting.append((ast.parse(found[path]), path.parent))
    return found


def _files_of(tree: ast.AST, folder: Path, home: Path) -> Iterator[Path]:
    """The files under `folder` that a module in the folder `home` imports or names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _modules(folder, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = home.parents[node.level - 2] if node.level > 1 else home
            start = base if node.level else folder
            for alias in node.names:
                yield from _modules(start, ".".join(filter(None, (node.module, alias.name))))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _named(folder, node.value.partition(":")[0])


def _modules(start: Path, dotted: str) -> Iterator[Path]:
    """The files that importing a dotted name runs: every package on the way, and the module."""
    place = start
    for part in dotted.split("."):
        place = place / part
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                yield path


def _named(folder: Path, text: str) -> Iterator[Path]:
    """The file of code that a text names, by its path from `folder` or from the folder above."""
    if text.endswith(".py") and "\n" not in text:
        for path in (folder / text, folder.parent / text):
            if path.is_file() and path.is_relative_to(folder):
                yield path


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        kinds = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or ([] if isinstance(node, ast.Module) else [ast.Pass()])
    return tree


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a top-level statement gives a meaning to, or whose value it changes."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    nodes = list(ast.walk(statement))
    imported = {
        (node.asname or node.name).split(".")[0] for node in nodes if isinstance(node, ast.alias)
    }
    stored = {
        node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    changed = {
        name
        for node in nodes
        if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store)
        for name in _used(node.value)
    }
    return imported | stored | changed


def _used(statement: ast.AST) -> set[str]:
    """The names that a statement reads."""
    return {
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }

"""What the source's text is like, counted: `python tests/benchmarks/source_counts.py [COMMIT ...]`.

A column a commit, the working tree last: lines, suppressed formatting, `Any`, attribute probes,
conditional expressions, tuple assignments, arguments of the longest signature inside the package,
and public callables whose docstring has a section of arguments.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def sources(commit: str | None) -> Iterator[str]:
    """The texts of the package's files at a commit, or as they are."""
    if commit is None:
        yield from (path.read_text(encoding="utf-8") for path in (ROOT / "ppl_vae").rglob("*.py"))
        return
    names = _git("ls-tree", "-r", "--name-only", commit, "ppl_vae").split()
    yield from (_git("show", f"{commit}:{name}") for name in names if name.endswith(".py"))


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def counts(commit: str | None) -> dict[str, int]:
    """Each count by its name."""
    texts = list(sources(commit))
    trees = [ast.parse(text) for text in texts]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    calls = [n for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    public = [f for tree in trees for f in _public(tree)]
    return {
        "files": len(texts),
        "lines": sum(len(text.splitlines()) for text in texts),
        "# fmt: skip": sum(text.count("# fmt: skip") for text in texts),
        "Any": sum(isinstance(n, ast.Name) and n.id == "Any" for n in nodes),
        "getattr of three, hasattr": sum(
            c.func.id == "hasattr" or (c.func.id == "getattr" and len(c.args) == 3) for c in calls
        ),
        "conditional expressions": sum(isinstance(n, ast.IfExp) for n in nodes),
        "conditional expressions in another": sum(map(_is_nested, nodes)),
        "tuple assignments": sum(
            isinstance(n, ast.Assign) and isinstance(n.value, ast.Tuple) for n in nodes
        ),
        "lines over 100 columns": sum(len(s) > 100 for t in texts for s in t.splitlines()),
        "most arguments": max(len(f.args.args) + len(f.args.kwonlyargs) for f in functions),
        "public functions": len(public),
        "of them with a section Args": sum("Args:" in (ast.get_docstring(f) or "") for f in public),
    }


def _public(tree: ast.Module) -> list[ast.FunctionDef]:
    own = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [node for node in own if not node.name.startswith("_")]


def _is_nested(node: ast.AST) -> bool:
    below = (n for child in ast.iter_child_nodes(node) for n in ast.walk(child))
    return isinstance(node, ast.IfExp) and any(isinstance(n, ast.IfExp) for n in below)


def main() -> None:
    """Print the table."""
    commits = [*sys.argv[1:], None]
    columns = [counts(commit) for commit in commits]
    print(f"{'':36}", *(f"{commit or 'now':>10.10}" for commit in commits))
    for name in columns[0]:
        print(f"{name:36}", *(f"{column[name]:10}" for column in columns))


if __name__ == "__main__":
    main()

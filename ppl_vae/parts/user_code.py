"""Names of a user's own code: "file.py:Name" and "package.module:Name" -> the object; and what goes
wrong in it.

The one place that runs code named by text. A file is read once: the bytes that are hashed are those
that are compiled and run, never a cache beside them, and so it is with what it imports from its own
folder. It knows nothing of priors, and of trust only which texts it may run.
"""

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NoReturn, TypeGuard

from torch.distributions import Distribution

from ppl_vae import checks

__all__ = [
    "absolute_reference",
    "check_attributes",
    "fault",
    "is_program",
    "is_reference",
    "made",
    "only_code",
    "recorded_code",
    "reference_file",
    "refuse_file",
    "resolve",
]

LIBRARIES = (f"{os.sep}lib{os.sep}python", f"{Path(__file__).parents[1]}{os.sep}")

# A user's file is a module of this name and its text's hash, so that two files of one name, or an
# edited one, never share a module.
USER_MODULE = "ppl_vae_user_"


@dataclass(frozen=True)
class _Permission:
    """The texts that may run, as path -> sha256s, and folders in which every text may."""

    texts: Mapping[str, Collection[str]]
    folders: Collection[Path]

    def covers(self, path: str, sha: str) -> bool:
        return sha in self.texts.get(path, ()) or Path(path).parent in self.folders


@dataclass
class _Session:
    """The user's files whose code was run in a block (path -> sha256), and their folders."""

    code: dict[str, str] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    hidden: dict[str, ModuleType] = field(default_factory=dict)

    def admit(self, path: Path, text: bytes) -> None:
        """Note a text that is about to be run; `InputError` if it is not to be."""
        sha = hashlib.sha256(text).hexdigest()
        allowed = _permission.get()
        if allowed is not None and not allowed.covers(str(path), sha):
            checks.refuse(
                "checkpoint",
                f"code in {path} that it was not trained with here",
                "the very files that this user trained it with",
                "read the code, then load with trust_code=True (--trust-code), or pass "
                "prior=..., posterior=...",
            )
        self.code[str(path)] = sha

    def owns(self, path: Path) -> bool:
        """Whether a file is in the folder of one of the user's files, or below it."""
        return not _in_library(str(path)) and any(f in path.parents for f in self.folders)


_permission: ContextVar[_Permission | None] = ContextVar("permission", default=None)
_session: ContextVar[_Session | None] = ContextVar("session", default=None)
# What each user's file, by the name of its module, was run with: path -> sha256.
_ran: dict[str, dict[str, str]] = {}


@contextlib.contextmanager
def only_code(
    texts: Mapping[str, Collection[str]], chosen: Sequence[object] = ()
) -> Iterator[None]:
    """Inside, a user's file runs only if its sha256 is among those of its path in `texts`, or if it
    is one of the references in `chosen`, or beside one.
    """
    files = [reference_file(name) for name in chosen if isinstance(name, str)]
    folders = [file.parent for file in files if file is not None]
    token = _permission.set(_Permission(texts, folders))
    try:
        yield
    finally:
        _permission.reset(token)


@contextlib.contextmanager
def recorded_code() -> Iterator[dict[str, str]]:
    """Collects what is run of a user's files inside: path -> sha256 of the text that was run."""
    outer = _session.get()
    if outer is not None:
        yield outer.code
        return
    session = _Session()
    finder = _Neighbours(session)
    token = _session.set(session)
    place = sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else 0
    sys.meta_path.insert(place, finder)
    try:
        yield session.code
    finally:
        sys.meta_path.remove(finder)
        sys.modules.update(session.hidden)
        _session.reset(token)


class _Neighbours(MetaPathFinder):
    """Finds what a user's file imports from its own folder, and has its text run as that file's is:
    from the bytes that were hashed.
    """

    def __init__(self, session: _Session) -> None:
        self.session = session

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The module's, if it is a file of the user's own; None leaves it to Python."""
        spec = PathFinder.find_spec(name, path)
        if spec is None and path is None:
            spec = PathFinder.find_spec(name, [str(folder) for folder in self.session.folders])
        if spec is None or spec.origin is None:
            return spec
        file = Path(spec.origin).resolve()
        if not self.session.owns(file):
            return None
        text = file.read_bytes()
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Text(name, str(file), text, self.session)
        else:
            self.session.admit(file, text)
        return spec


class _Text(SourceFileLoader):
    """Runs a text that was read, and neither reads nor writes what was compiled of it before."""

    def __init__(self, name: str, path: str, text: bytes, session: _Session) -> None:
        super().__init__(name, path)
        self.text, self.session = text, session

    def get_code(self, fullname: str) -> CodeType:
        """What the text compiles to."""
        self.session.admit(Path(self.path), self.text)
        return self.source_to_code(self.text, self.path)


def is_reference(name: str) -> bool:
    """Whether `name` points at code ("file.py:Name", "package.module:Name") rather than naming a
    built-in choice.
    """
    return ":" in name


def reference_file(reference: str) -> Path | None:
    """The absolute path of a "file.py:Name" reference; None for "package.module:Name"."""
    location = reference.rpartition(":")[0]
    return Path(location).expanduser().resolve() if location.endswith(".py") else None


def refuse_file(subject: str, name: str) -> NoReturn:
    """Raise `InputError` for a file without a name in it, and say which names it has.

    Its text is read, not run.
    """
    try:
        tree = ast.parse(Path(name).expanduser().read_bytes())
    except (OSError, SyntaxError, ValueError):
        checks.refuse(subject, f"'{name}'", f"a file that can be read, and a name: {name}:Name")
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = [n.name for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]
    held = f"it has {', '.join(f'{name}:{n}' for n in names)}" if names else "it has none"
    checks.refuse(subject, f"'{name}', a file without a name in it", f"{name}:Name", held)


def absolute_reference(reference: str) -> str:
    """The same reference with the file's path made absolute, so that it means the same from any
    folder.
    """
    path = reference_file(reference)
    return f"{path}:{reference.rpartition(':')[2]}" if path else reference


def resolve(reference: str, subject: str = "program") -> Any:
    """The object a reference names, `subject` in words. `InputError` if the file or module or name
    is missing, or its code raises.
    """
    location, _, name = reference.rpartition(":")
    path = reference_file(reference)
    with recorded_code():
        module = _from_file(path, subject) if path else _from_package(location)
    try:
        return getattr(module, name)
    except AttributeError:
        public = [key for key, value in vars(module).items() if key[0] != "_" and callable(value)]
        checks.refuse(
            f"'{reference}'",
            f"no '{name}' in {location}",
            f"one of {', '.join(public) or 'its names'}",
            checks.nearest(name, public),
        )
    except Exception as error:  # of a module's own __getattr__
        checks.refuse(f"'{reference}'", fault(error), "a name that can be looked up")


def check_attributes(subject: str, program: Any) -> None:
    """`InputError` for an object that answers the question for an attribute it has not by another
    error than Python's.
    """
    try:
        hasattr(program, "an_attribute_that_no_program_has")
    except Exception as error:
        checks.refuse(subject, fault(error), "AttributeError for an attribute it does not have")


def _from_file(path: Path, subject: str) -> ModuleType:
    try:
        text = path.read_bytes()
    except OSError as error:
        checks.refuse(
            f"{subject}'s file",
            f"no file {path} ({error.strerror})",
            "a Python file",
            "give 'file.py:Name' from this folder or an absolute path",
        )
    session = _session.get()
    assert session is not None
    session.folders.append(path.parent)
    _hide_neighbours(session)
    name = f"{USER_MODULE}{path.stem}_{hashlib.sha256(text).hexdigest()[:12]}"
    if name in sys.modules and _still_holds(_ran.get(name, {}), path):
        session.code.update(_ran[name])
        return sys.modules[name]
    return _run(name, path, text, session)


def _hide_neighbours(session: _Session) -> None:
    """Take what other files have imported from their folders out of the way, until the session
    ends: this one may have another neighbour of the same name, or one that changed.
    """
    for known, module in list(sys.modules.items()):
        spec = vars(module).get("__spec__") if isinstance(module, ModuleType) else None
        if spec and isinstance(spec.loader, _Text) and not known.startswith(USER_MODULE):
            session.hidden.setdefault(known, sys.modules.pop(known))


def _still_holds(code: Mapping[str, str], path: Path) -> bool:
    """Whether a file that ran before would now run the same texts, and may."""
    allowed = _permission.get()
    for file, sha in code.items():
        if allowed is not None and not allowed.covers(file, sha):
            return False
        try:
            if hashlib.sha256(Path(file).read_bytes()).hexdigest() != sha:
                return False
        except OSError:
            return False
    return str(path) in code


def _run(name: str, path: Path, text: bytes, session: _Session) -> ModuleType:
    """Run a file's text as a module, with neighbours of its own."""
    importlib.invalidate_caches()
    before = dict(session.code)
    session.code.clear()
    loader = _Text(name, str(path), text, session)
    spec = importlib.util.spec_from_loader(name, loader, origin=str(path))
    assert spec is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    try:
        loader.exec_module(module)
    except checks.InputError:
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        checks.refuse(
            path.name, fault(error), "a file that imports without an error and to its end"
        )
    except BaseException:
        del sys.modules[name]
        raise
    _note_imported_before(text, session)
    _ran[name] = dict(session.code)
    session.code.update(before)
    return module


def _note_imported_before(text: bytes, session: _Session) -> None:
    """Note the neighbours that a text imports and that the user's own process had imported before:
    a later one will have to run them.
    """
    for name in _imported(text):
        module = sys.modules.get(name)
        spec = vars(module).get("__spec__") if isinstance(module, ModuleType) else None
        if spec is None or not isinstance(spec.loader, SourceFileLoader):
            continue
        file = Path(spec.loader.path).resolve()
        if str(file) not in session.code and session.owns(file):
            own = file.read_bytes()
            session.admit(file, own)
            _note_imported_before(own, session)


def _imported(text: bytes) -> set[str]:
    """Dotted names of the modules that a text may import, and of the packages they are in."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    parents = {name.rsplit(".", depth)[0] for name in names for depth in range(name.count(".") + 1)}
    return names | parents


def _from_package(location: str) -> ModuleType:
    try:
        return importlib.import_module(location)
    except ImportError as error:
        checks.refuse(
            f"module '{location}'",
            f"{type(error).__name__}: {error}",
            "an importable module",
            "use 'file.py:Name' for a file",
        )


def is_program(value: Any) -> TypeGuard[Callable[..., Any]]:
    """Whether it can be run as a program: a distribution can be called, too, but that samples no
    site.
    """
    return callable(value) and not isinstance(value, Distribution)


def made(subject: str, kind: type, /, **arguments: Any) -> Any:
    """An object of a user's class; `InputError` if making it raises."""
    try:
        return kind(**arguments)
    except checks.InputError:
        raise
    except (Exception, SystemExit) as error:
        checks.refuse(f"{subject} {kind.__name__}", fault(error), "a class that can be made")


def fault(error: BaseException) -> str:
    """What went wrong in a user's program: the error's first line, and the user's last line on the
    way to it.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _in_library(frame.filename)]
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    first, _, _ = str(error).partition("\n")
    return f"{type(error).__name__}: {first}{place}"


def _in_library(path: str) -> bool:
    return any(part in path for part in LIBRARIES) or path.startswith("<frozen ")

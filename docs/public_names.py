"""A Sphinx extension that warns of every public name without a docstring, or without a place in the reference.

Public are the names in a module's `__all__`, or without one those it defines without a leading underscore; and of a
public class the methods, properties, attributes and fields without one, those of private base classes included. They
are read from the source by griffe, because attributes that only `__init__` sets are not there at run time. What is in
the reference is known from the build itself: autodoc leaves out a member that has no docstring.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import griffe
from sphinx.util import logging

_PUBLIC: Final = ("admin", "aio", "replay", "telemetry", "testing")
MODULES: Final = ("grpc_breaker", *(f"grpc_breaker.{name}" for name in _PUBLIC))

logger = logging.getLogger(__name__)


def setup(app: Any) -> dict[str, bool]:
    """Check when all pages have been read."""
    app.connect("env-check-consistency", _check)
    return {"parallel_read_safe": True}


def public_names(package: griffe.Object | griffe.Alias) -> Iterator[tuple[str, griffe.Object | griffe.Alias]]:
    """Every public name of the package as users write it, and what it is."""
    exported = dict(_exported(package))
    classes = {found.canonical_path for found in exported.values() if found.is_class}
    for name, found in exported.items():
        yield name, found
        if found.is_class:
            for member_name, member in found.all_members.items():
                from_public = member.inherited and member.canonical_path.rpartition(".")[0] in classes
                if not member_name.startswith("_") and not from_public:
                    yield f"{name}.{member_name}", member


def _exported(package: griffe.Object | griffe.Alias) -> Iterator[tuple[str, griffe.Object | griffe.Alias]]:
    for module in MODULES:
        _, _, below = module.partition(".")
        for name, found in (package[below] if below else package).members.items():
            if found.is_public and not found.is_module:
                yield f"{module}.{name}", found


def _check(app: Any, env: Any) -> None:
    package = griffe.load("grpc_breaker", search_paths=[Path(app.srcdir)])
    documented = env.domains.python_domain.objects
    for name, found in public_names(package):
        redeclared = name.rpartition(".")[2] in dir(BaseException)  # for its type alone
        if not redeclared and (name not in documented or not (found.is_attribute or found.has_docstring)):
            logger.warning("%s is public, but has no docstring or is not in the reference", name)

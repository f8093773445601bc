"""The build of the documentation: `make docs`.

The pages are README.md, the other Markdown files beside it, docs/*.md and monitoring/README.md. The source folder is
the root of the repository, so a link that works in the repository works here, and one that does not is a warning.
`make docs` makes every warning an error. Nothing is fetched.
"""

import sys
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))  # for `public_names`

project = "grpc_breaker"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "public_names"]

# ── Pages ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "monitoring/*.md"]
exclude_patterns = [".*", "benchmarks", "build", "examples", "grpc_breaker", "mutants", "protos", "tests"]
myst_heading_anchors = 3
CONTENTS: Final = """

```{toctree}
:hidden:

docs/registry
docs/policy
docs/parts
docs/service_config
docs/telemetry
docs/operating
docs/admin
docs/recording
docs/replay
monitoring/README
docs/web
docs/recipes
docs/overload
docs/grpc_own
docs/example
docs/migrating
docs/reference
docs/design
docs/performance
docs/scenarios
docs/verification
docs/limits
docs/endings
CHANGELOG
CONTRIBUTING
SECURITY
```
"""

# ── The reference ─────────────────────────────────────────────────────────────────────────────────────────────────────

autoclass_content = "both"  # the docstring of the class, then that of `__init__`
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "special-members": "__call__, __contains__, __getitem__, __iter__, __len__"}
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_attr_annotations = False  # they would show where in the package a type is made
default_role = "py:obj"  # what stands between single backticks; a link where it names something of the reference
nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", ".*"),  # most are plain code
    ("py:.*", r"(?!grpc_breaker\b).*"),  # other projects' names: their inventories would have to be fetched
    ("py:class", r"grpc_breaker\._core\.\w+\.[A-Z]"),  # type variables
    ("py:class", "grpc_breaker._core.stack.Stack"),  # what the adapters keep of a method
    ("py:class", "grpc_breaker._core.permit.Issuer"),  # a `CircuitBreaker`, as the permit's own module knows it
]

# ── Looks ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

html_theme = "furo"
html_title = "grpc_breaker"
html_show_sphinx = False
html_copy_source = False


def setup(app: Any) -> None:
    """Add what no setting can: a table of contents that README.md does not show, and an index.html."""
    app.connect("source-read", _add_contents)
    app.connect("autodoc-process-docstring", _keep_colons, priority=400)  # before napoleon
    app.connect("build-finished", _add_index)


def _add_contents(_app: Any, page: str, source: list[str]) -> None:
    if page == root_doc:
        source[0] += CONTENTS


def _keep_colons(_app: Any, what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Napoleon takes the words before a colon in an attribute's first line for its type: sphinx-doc/sphinx #9273."""
    if what in {"attribute", "property"}:
        lines[:0] = ["..", ""]  # an empty comment takes that place


def _add_index(app: Any, error: Exception | None) -> None:
    if error is None:
        start = f'<meta http-equiv="refresh" content="0; url={root_doc}.html">'
        Path(app.outdir, "index.html").write_text(start, "utf-8")

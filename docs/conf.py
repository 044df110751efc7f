"""The documentation site: `make docs` builds it into build/site, with warnings as errors.

The root of the repository is the source folder, so that links between docs, README and measured results work as they do
in a checkout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_featgeo._version import __version__  # installed in place, with the extra [docs]

ROOT = Path(__file__).parents[1]

project = "lightning-featgeo"
author = copyright = "The lightning-featgeo developers"
version = release = __version__

root_doc = "docs/index"
include_patterns = [
    "docs/**", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md",
    "benchmarks/results/*.md",
]  # fmt: skip
exclude_patterns = ["**/.ipynb_checkpoints"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
source_suffix = {".md": "myst-nb"}
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
nb_execution_mode = "cache"  # a notebook is run again where it has changed
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_cache_path = str(ROOT / "build" / "notebooks")
nb_merge_streams = True

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_custom_sections = ["Logged", "Shapes"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"lightning-featgeo {release}"
html_extra_path = ["site"]  # what opens at the root
html_static_path: list[str] = []
html_theme_options: dict[str, Any] = {"navigation_with_keys": True, "top_of_page_buttons": []}
suppress_warnings = ["myst.header"]  # tables of results begin at the level that fits them


def list_signals(app: Any, docname: str, source: list[str]) -> None:
    """The signals' pages below their map: what lists them for Sphinx would be read as text in a checkout."""
    if docname == "docs/signals/README":
        pages = "\n".join(sorted(path.stem for path in (ROOT / "docs" / "signals").glob("[a-z]*.md")))
        source[0] += f"\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n"


def escape_bars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """A formula's |x| is no substitution."""
    lines[:] = [line if "``" in line else line.replace("|", r"\|") for line in lines]


def setup(app: Any) -> None:
    """Hooks."""
    app.connect("source-read", list_signals)
    app.connect("autodoc-process-docstring", escape_bars)


linkcheck_timeout = 30
linkcheck_retries = 2

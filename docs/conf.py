"""Configuration of the documentation; see docs/contributing.rst for how it is built."""

import os

import skgen

project = "scikit-generative"
author = "The skgen developers"
copyright = author
release = version = skgen.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_templates", "auto_examples/**/GALLERY_HEADER.rst"]
templates_path = ["_templates"]
default_role = "literal"

# The build must pass offline, so links into other projects' documentation are asked for:
# SKGEN_DOCS_INTERSPHINX=1 python -m sphinx ...
if os.environ.get("SKGEN_DOCS_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "scipy": ("https://docs.scipy.org/doc/scipy", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }

autosummary_generate = True
autodoc_member_order = "groupwise"
autodoc_typehints = "none"  # the docstrings say more
# The class template lists the methods; numpydoc would list them a second time.
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": ["../examples"],
    "gallery_dirs": ["auto_examples"],
    "filename_pattern": r"plot_",
    "ignore_pattern": r"__init__\.py|benchmarks",
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
}

html_theme = "pydata_sphinx_theme"
html_title = f"scikit-generative {release}"
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
}


def skip_inherited_metadata_methods(app, what, name, obj, skip, options):
    """Leave out what scikit-learn adds to every estimator, except its parameters' access.

    The docstrings of these methods refer to labels of scikit-learn's own user guide, which
    cannot be resolved here.
    """
    inherited = getattr(obj, "__module__", None) or ""
    if inherited.split(".")[0] == "sklearn" and name not in {"get_params", "set_params"}:
        return True
    if name.startswith("set_") and name.endswith("_request"):
        return True
    return None


def setup(app):
    """Connect the hooks of this file."""
    app.connect("autodoc-skip-member", skip_inherited_metadata_methods)

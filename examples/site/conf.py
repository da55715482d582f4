"""Settings of Sphinx for the site. `python examples/site/build.py` builds it."""

from tensorgrad import __version__

project = "tensorgrad"
version = release = __version__
language = "en"
smartquotes = False  # "relu" is copied as it is
extensions = ["myst_parser"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
myst_heading_anchors = 3
highlight_language = "text"
python_maximum_signature_line_length = 100
add_module_names = False
toc_object_entries = False  # the reference would otherwise list every method twice

html_theme = "furo"
html_title = f"tensorgrad {__version__}"
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_use_index = False  # the search finds names; the reference lists them by module
html_domain_indices = False
html_static_path = ["style"]
html_css_files = ["site.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#8e2f23", "color-brand-content": "#a03527"},
    "dark_css_variables": {"color-brand-primary": "#f0907f", "color-brand-content": "#f0907f"},
}

"""What the site is made of beside the pages of this folder.

The README, the changes, and the pages beside benchmarks, examples and saved models are
shown where they are; the reference has a page for each station of the package.
"""

import ast
import pathlib
import re

import griffe
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent
ELSEWHERE = ("CHANGELOG.md", "benchmarks/*", "examples/*/*", "saved_models/*.md",
             "saved_models/*/*.md")  # fmt: skip
SHOWN = {".md", ".png", ".jpg"}


def stations():
    """The stations that the top level names; the command line has its own help."""
    face = ast.parse((ROOT / "keras_aploss/__init__.pyi").read_text("utf-8"))
    return sorted({alias.name for alias in face.body[0].names} - {"cli"})


def taught_names(station):
    """The names of a station whose docstrings have an example, sorted."""
    room = ROOT / "keras_aploss" / station
    face = room / "__init__.pyi"
    face = face if face.exists() else room / "__init__.py"
    if not face.exists():
        return _with_example(room.with_suffix(".py"))
    names = []
    for node in ast.parse(face.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            module = room / f"{node.module.rpartition('.')[2]}.py"
            shown = {alias.name for alias in node.names}
            names += shown.intersection(_with_example(module))
    return sorted(names, key=str.lower)


def _with_example(path):
    return [
        node.name
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_"
        if ">>>" in (ast.get_docstring(node) or "")
    ]


def reference(station):
    """The page of a station: its docstring, then each of its names."""
    lines = [f"# keras_aploss.{station}", "", f"::: keras_aploss.{station}"]
    lines += ["    options: {members: false}", ""]
    for name in taught_names(station):
        lines += [f"::: keras_aploss.{station}.{name}"]
        lines += [
            "    options: {show_root_heading: true, show_root_toc_entry: true}",
            "",
        ]
    return "\n".join(lines)


def on_config(config):
    """Fill the reference in the navigation."""
    for entry in config.nav:
        if "Reference" in entry:
            entry["Reference"] = [{s: f"reference/{s}.md"} for s in stations()]


def on_files(files, config):
    """Add the pages and pictures that lie outside of this folder."""
    generated = {"index.md": (ROOT / "README.md").read_text(encoding="utf-8")}
    for name in stations():
        generated[f"reference/{name}.md"] = reference(name)
    for name, content in generated.items():
        files.append(File.generated(config, name, content=content))
    for path in sorted(path for pattern in ELSEWHERE for path in ROOT.glob(pattern)):
        if path.suffix in SHOWN:
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Let links that are right in the repository be right on the site."""
    source = page.file.src_uri
    if source == "index.md":
        markdown = markdown.replace("](docs/", "](")
    elif "/" not in source:
        markdown = markdown.replace("](../README.md)", "](index.md)")
        markdown = markdown.replace("](../", "](")
    # Code is shown in the repository, not on the site.
    return re.sub(r"\[([^\]]+)\]\([^):]+\.py\)", r"\1", markdown)


class ExamplesAsCode(griffe.Extension):
    """Show the examples of docstrings, which are not indented, as code."""

    def on_instance(self, *, obj, **kwargs):
        """Fence the lines from each `>>>` to the next blank line."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^( *)>>> .*(?:\n *\S.*)*",
                lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```",
                obj.docstring.value,
                flags=re.M,
            )

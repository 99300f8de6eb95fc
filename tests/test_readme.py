"""The README and the pages of `docs` are true: names, files, commands, examples."""

import ast
import importlib
import pathlib
import re

import click
import pytest

import keras_aploss
from keras_aploss.cli import main

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {"README.md": README} | {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs").glob("*.md"))
}
CODE = re.findall(r"```python\n(.*?)```", "\n".join(PAGES.values()), re.DOTALL)


def test_the_readme_is_short():
    assert len(README.split()) <= 1500


def test_the_pieces_of_the_readme_are_at_the_top_level():
    listed = re.findall(r"`(\w+)`", re.search(r"\| piece .*?\n\n", README, re.S)[0])
    names = set(listed) - {"val_map"}
    assert len(names) > 35
    assert [name for name in names if not hasattr(keras_aploss, name)] == []


def test_imported_names_exist():
    imports = [
        (node.module, name.name)
        for code in CODE
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("keras_aploss")
        for name in node.names
    ]
    assert len(imports) >= 10
    for module, name in imports:
        assert hasattr(importlib.import_module(module), name), (module, name)


@pytest.mark.parametrize("page", PAGES)
def test_named_stations_exist(page):
    names = re.findall(r"`(keras_aploss(?:\.\w+)+)", PAGES[page])
    for name in names:
        value = keras_aploss
        for part in name.split(".")[1:]:
            assert hasattr(value, part), name
            value = getattr(value, part)


@pytest.mark.parametrize("page", PAGES)
def test_files_exist(page):
    links = re.findall(r"\]\(([^)#]+)[)#]", PAGES[page])
    local = [link for link in links if "://" not in link]
    folder = (ROOT / page).parent
    assert [link for link in local if not (folder / link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_options_of_commands_exist(page):
    context = click.Context(main)
    names = main.list_commands(context)
    commands = re.findall(rf"keras-aploss ({'|'.join(names)})([^\n`]*)", PAGES[page])
    for name, arguments in commands:
        command = main.get_command(context, name)
        known = {"--help"} | {
            o for p in command.params for o in [*p.opts, *p.secondary_opts]
        }
        assert set(re.findall(r"--[\w-]+", arguments)) <= known, (name, arguments)


@pytest.mark.slow
def test_the_example_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(CODE[0], {})
    (value,) = re.findall(r"0\.\d+", capsys.readouterr().out.splitlines()[-1])
    assert float(value) > 0.6  # 0.1 before the training
    assert (tmp_path / "saved_models" / "quickstart" / "1").is_dir()

"""What the README says must be true."""

import ast
import pathlib
import re

import pytest

import keras_aploss
from keras_aploss.cli import main

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)


def test_names_exist():
    imported = [
        name.name
        for node in ast.walk(ast.parse(CODE))
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    ]
    listed = re.findall(r"`(\w+)`", re.search(r"\| piece .*?\n\n", README, re.S)[0])
    names = set(imported + listed) - {"GeM", "val_map", "sample_weight", "fit"}
    assert len(names) > 15
    assert [name for name in names if not hasattr(keras_aploss, name)] == []


def test_files_exist():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    local = [link for link in links if "://" not in link]
    assert len(local) > 4
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_options_of_commands_exist():
    commands = re.findall(
        r"keras-aploss (train|evaluate|export|extract|embed|index|manifest|search|app)"
        r"([^\n`]*)",
        README,
    )
    assert len(commands) > 5
    for name, arguments in commands:
        known = {"--help"} | {
            o for p in main.commands[name].params for o in [*p.opts, *p.secondary_opts]
        }
        assert set(re.findall(r"--[\w-]+", arguments)) <= known, (name, arguments)


@pytest.mark.slow
def test_the_example_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(CODE, {})
    before, after = re.findall(r"0\.\d+", capsys.readouterr().out.splitlines()[-1])
    assert float(before) < 0.2 < 0.6 < float(after)
    assert (tmp_path / "saved_models" / "quickstart" / "1").is_dir()

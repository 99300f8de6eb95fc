"""The plan of the package, held by a walk over its syntax trees."""

import ast
import doctest
import importlib
import inspect
import pathlib
import pkgutil

import pytest

import keras_aploss

ROOT = pathlib.Path(keras_aploss.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# Stations meet through Keras and NumPy types; these are all the imports among them.
STATIONS = {
    **dict.fromkeys(["layers", "samplers", "evaluation", "pictures", "pickles"], ""),
    **{"losses": "losses.replicas", "losses.replicas": ""},
    "batch_metrics": "losses losses.replicas",
    **{"data": "", "models": "layers", "datasets.landmarks": ""},
    **{"export": "data embeddings", "client": "data"},
    "datasets": "data datasets.landmarks pickles",
    "training": "",
    "checkpoints": "models layers pickles",
    "embeddings": "data layers",
    "search": "data datasets embeddings evaluation",
    "app": "data evaluation search",
    "distributed": "data embeddings search",
    "callbacks": "evaluation pictures",
    "benchmarks": "data datasets embeddings evaluation layers",
}
EVERYTHING = " ".join(STATIONS)
STATIONS |= {"": f"{EVERYTHING} runs", "runs": f"{EVERYTHING} __version__"}
STATIONS |= {"cli": f"{EVERYTHING} runs __version__", "__version__": ""}
STATIONS |= {"__main__": "cli"}
WITH_TENSORFLOW = (
    "losses.replicas", "data", "export", "callbacks", "training", "runs", "cli",
)  # fmt: skip
VAGUE = {"utils", "common", "helpers", "base", "config", "types", "constants"}
# Lists of checks and of settings, easier to read in one piece.
LONG_FUNCTIONS = {("samplers", "__init__")}
NOT_PUBLIC = ("keras.src", "tensorflow.keras", "tensorflow.python", "tf.keras")


def station_of(name):
    """The station that a dotted name in the package belongs to."""
    return max((s for s in STATIONS if f"{name}.".startswith(f"{s}.")), default="")


def imported_names(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    source = "." * node.level + (node.module or "")
    return [f"{source}.{alias.name}" for alias in node.names]


def code_lines(function, source):
    """The lines of a function that are not blank, comment or docstring."""
    first, last = function.lineno - 1, function.end_lineno
    lines = [line.strip() for line in source.splitlines()[first:last]]
    count = sum(bool(line) and not line.startswith("#") for line in lines)
    document = ast.get_docstring(function) or ""
    return count - sum(bool(line) for line in document.splitlines())


def violations(module, source):
    """Yield what a module, by its dotted name in the package, does against the plan."""
    station = station_of(module)
    if len(source.splitlines()) > 350:
        yield "over 350 lines"
    if VAGUE & set(module.split(".")) or (module and not station):
        yield f"{module} is not in the plan: a function belongs to its only caller"
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import() | ast.ImportFrom():
                for name in imported_names(node):
                    package, _, inside = name.partition(".")
                    other = station_of(inside)
                    if package == "":
                        yield f"relative import {name}"
                    if package == "tensorflow" and station not in WITH_TENSORFLOW:
                        yield f"{station} imports {name}"
                    allowed = [station, *STATIONS[station].split()]
                    if package == "keras_aploss" and other not in allowed:
                        yield f"{station} imports {name}"
                    if name.startswith(NOT_PUBLIC):
                        yield f"{name} is not public"
            case ast.Attribute() if ast.unparse(node) in NOT_PUBLIC:
                yield f"{ast.unparse(node)} is not public"
            case ast.Assert() | ast.Call(ast.Name("print")):
                yield f"{ast.unparse(node)} in the package"
            case ast.FunctionDef() if (
                code_lines(node, source) > 50
                and (module, node.name) not in LONG_FUNCTIONS
            ):
                yield f"{node.name} has {code_lines(node, source)} code lines"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_keep_to_the_plan(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    module = ".".join(part for part in parts if part != "__init__")
    assert list(violations(module, path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("layers", "def f():\n    import tensorflow as tf"),
        ("losses.blocks", "def f():\n    import tensorflow as tf"),
        ("losses", "from keras_aploss.evaluation import embed"),
        ("evaluation.metrics", "import keras_aploss.pictures.charts"),
        ("samplers", "from keras_aploss import ImageFiles"),
        ("datasets.landmarks.view", "from keras_aploss.datasets import ImageSet"),
        ("runs.training", "from keras_aploss import cli"),
        ("data.files", "from .decoding import decode_image"),
        ("data.files", "from keras.src import ops"),
        ("data.files", "tf.keras.Model()"),
        ("data.files", "assert 1 == 2"),
        ("data.files", "print(1)"),
        ("data.utils", ""),
        ("gadgets", ""),
        ("models", "\n" * 351),
        ("models", "def f():\n    '''One.'''\n" + "    g()\n" * 50),
    ],
)
def test_the_walk_sees_what_is_against_the_plan(module, source):
    assert len(list(violations(module, source))) == 1


@pytest.mark.parametrize("name", keras_aploss.__all__)
def test_public_names_have_an_example_that_runs_as_copied(name):
    document = inspect.getdoc(getattr(keras_aploss, name)) or ""
    example = doctest.DocTestParser().get_doctest(document, {}, name, None, None)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    report = []
    doctest.DocTestRunner(optionflags=flags).run(example, out=report.append)
    assert example.examples, f"{name} has no example"
    skipped = [one.source for one in example.examples if doctest.SKIP in one.options]
    assert not skipped
    assert not report, "".join(report)


def shown_names():
    """The classes and functions that stations show.

    Those that a package names in its `__init__`; the other public names of its modules
    are for one another. A station of one file shows all without an underscore.
    """
    shown = set()
    for info in pkgutil.iter_modules([str(ROOT)]):
        if not info.name.startswith("_"):
            station = importlib.import_module(f"keras_aploss.{info.name}")
            shown |= {
                name
                for name, value in vars(station).items()
                if inspect.isclass(value) or inspect.isfunction(value)
                if info.ispkg or value.__module__ == station.__name__
                if not name.startswith("_")
            }
    return shown


def test_stations_show_nothing_that_the_top_level_hides():
    shown = shown_names()
    assert {"APLoss", "decode_batch", "top_k", "ClassBalancedSampler"} <= shown
    assert sorted(shown - set(keras_aploss.__all__)) == []


def test_the_top_level_shows_nothing_that_stations_hide():
    assert sorted(set(keras_aploss.__all__) - shown_names()) == []

"""The plan of the package, held by a walk over its syntax trees."""

import ast
import doctest
import importlib
import inspect
import pathlib
import subprocess
import sys

import pytest

import keras_aploss

ROOT = pathlib.Path(keras_aploss.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# Stations meet through Keras and NumPy types; these are all the imports among them.
STATIONS = {
    **dict.fromkeys(
        ["losses", "layers", "samplers", "training", "evaluation", "images", "pickles"],
        "",
    ),
    **{"metrics": "losses", "torch_files": "pickles", "datasets.landmarks": ""},
    "models": "layers torch_files",
    "datasets": "images datasets.landmarks",
    "embeddings": "images layers evaluation",
    "report": "datasets evaluation __version__",
    "callbacks": "losses embeddings evaluation report",
    "benchmarks": "images datasets embeddings evaluation pickles",
    "serving": "images embeddings",
    "checkpoints": "models layers pickles torch_files",
    "search": "images datasets embeddings evaluation",
    "app": "images embeddings search",
    "workers": "images embeddings layers",
}
# Files that are whole or not there, and tables of them, which any station may use.
STATIONS = {name: f"{uses} files tables" for name, uses in STATIONS.items()}
STATIONS |= {"files": "", "tables": "files"}
EVERYTHING = " ".join(STATIONS)
STATIONS |= {"runs": f"{EVERYTHING} __version__"}
STATIONS |= {"cli": f"{EVERYTHING} runs __version__", "__version__": ""}
STATIONS |= {"": EVERYTHING, "__main__": "cli"}
# TensorFlow is imported where files are decoded, graphs exported or TensorBoard
# written, and in functions that only those call who have it.
WITH_TENSORFLOW = ("images", "serving", "callbacks.retrieval_tensorboard")
WITH_TENSORFLOW_INSIDE = (
    *WITH_TENSORFLOW, "losses.replicas", "training", "callbacks.throughput",
    "runs.devices", "runs.card",
)  # fmt: skip
VAGUE = {"utils", "common", "helpers", "base", "config", "types", "constants"}
NOT_PUBLIC = ("keras.src", "tensorflow.keras", "tensorflow.python", "tf.keras")


def station_of(name):
    """The station that a dotted name in the package belongs to."""
    return max((s for s in STATIONS if f"{name}.".startswith(f"{s}.")), default="")


def imported_names(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    source = "." * node.level + (node.module or "")
    return [f"{source}.{alias.name}" for alias in node.names]


def is_in(module, places):
    return any(f"{module}.".startswith(f"{place}.") for place in places)


def code_lines(function, source):
    """The lines of a function that are not blank, comment or docstring."""
    first, last = function.lineno - 1, function.end_lineno
    lines = [line.strip() for line in source.splitlines()[first:last]]
    count = sum(bool(line) and not line.startswith("#") for line in lines)
    document = ast.get_docstring(function) or ""
    return count - sum(bool(line) for line in document.splitlines())


def broken_import(module, name, is_inside):
    """What is wrong about an import of a dotted name, or None.

    Another station is entered through its face, the names of its `__init__`.
    """
    station, (package, _, inside) = station_of(module), name.partition(".")
    if package == "":
        return f"relative import {name}"
    if name.startswith(NOT_PUBLIC):
        return f"{name} is not public"
    if package == "tensorflow":
        places = WITH_TENSORFLOW_INSIDE if is_inside else WITH_TENSORFLOW
        return None if is_in(module, places) else f"{module} imports {name}"
    if package != "keras_aploss":
        return None
    other = station_of(inside)
    if other == station and (ROOT / station.replace(".", "/") / "__init__.py").exists():
        is_face = inside.count(".") <= station.count(".") + 1
        is_file = (ROOT / f"{inside.replace('.', '/')}.py").exists()
        return (
            f"{module} enters its own room by the face"
            if (is_face and not is_file and module != station)
            else None
        )
    if other == station or other not in STATIONS[station].split():
        return f"{module} imports {name}"
    if inside.count(".") > other.count(".") + 1:
        return f"{module} enters {other} by {inside}, not through its face"
    if other not in ("", "__version__") and inside not in (other, *face_of(other)):
        return f"{module} takes {inside}, which the face of {other} does not show"
    return None


def face_of(station):
    """The dotted names that a station hands to others."""
    face = importlib.import_module(f"keras_aploss.{station}")
    names = getattr(face, "__all__", None) or [n for n in vars(face) if n[0] != "_"]
    return [f"{station}.{name}" for name in names]


def violations(module, source):
    """Yield what a module, by its dotted name in the package, does against the plan."""
    if len(source.splitlines()) > 350:
        yield "over 350 lines"
    if VAGUE & set(module.split(".")) or (module and not station_of(module)):
        yield f"{module} is not in the plan: a function belongs to its only caller"
    tree = ast.parse(source)
    for node in ast.walk(tree):
        match node:
            case ast.Import() | ast.ImportFrom():
                for name in imported_names(node):
                    problem = broken_import(module, name, node not in tree.body)
                    if problem:
                        yield problem
            case ast.Attribute() if ast.unparse(node) in NOT_PUBLIC:
                yield f"{ast.unparse(node)} is not public"
            case ast.Assert() | ast.Call(ast.Name("print")):
                yield f"{ast.unparse(node)} in the package"
            case ast.FunctionDef() if code_lines(node, source) > 50:
                yield f"{node.name} has {code_lines(node, source)} code lines"


def test_modules_keep_to_the_plan():
    found = {}
    for path in FILES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        found[module] = list(violations(module, path.read_text(encoding="utf-8")))
    assert {module: problems for module, problems in found.items() if problems} == {}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("layers", "def f():\n    import tensorflow as tf"),
        ("losses.blocks", "def f():\n    import tensorflow as tf"),
        ("training.trainer", "import tensorflow as tf"),
        ("losses", "from keras_aploss.evaluation import top_k"),
        ("evaluation.metrics", "import keras_aploss.report.charts"),
        ("metrics", "from keras_aploss.losses import replicas"),
        ("samplers", "from keras_aploss import ImageFiles"),
        ("datasets.landmarks.view", "from keras_aploss.datasets import ImageSet"),
        ("runs.run", "from keras_aploss import cli"),
        ("runs.run", "from keras_aploss.report.example_rankings import rank_queries"),
        ("runs.run", "from keras_aploss.report import nothing_of_the_kind"),
        ("runs.run", "from keras_aploss.runs import RunSettings"),
        ("images.files", "from .decoding import decode_image"),
        ("images.files", "from keras.src import ops"),
        ("images.files", "tf.keras.Model()"),
        ("images.files", "assert 1 == 2"),
        ("images.files", "print(1)"),
        ("images.utils", ""),
        ("gadgets", ""),
        ("models", "\n" * 351),
        ("models", "def f():\n    '''One.'''\n" + "    g()\n" * 50),
    ],
)
def test_the_walk_sees_what_is_against_the_plan(module, source):
    assert len(list(violations(module, source))) == 1


PUBLIC = [n for n in keras_aploss.__all__ if not (ROOT / n).exists()]
PUBLIC = [n for n in PUBLIC if not (ROOT / f"{n}.py").exists()]


def test_the_top_level_is_what_a_person_can_hold_in_the_head():
    assert 35 <= len(PUBLIC) <= 45


# The run that the tests share and the smoke run of the gate stand for a training run.
SLOW = [pytest.param("train_run", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", [*(n for n in PUBLIC if n != "train_run"), *SLOW])
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


def test_every_name_of_a_face_is_there():
    for station in STATIONS:
        if (ROOT / station / "__init__.pyi").exists():
            face = importlib.import_module(f"keras_aploss.{station}".rstrip("."))
            assert [name for name in face.__all__ if not hasattr(face, name)] == []


def run_python(code):
    """Run code in a process that has imported nothing yet."""
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_importing_the_package_imports_nothing_else():
    heavy = ("keras", "numpy", "tensorflow", "PIL", "click")
    code = f"import sys, keras_aploss; print([m for m in {heavy} if m in sys.modules])"
    assert run_python(code) == "[]"


@pytest.mark.parametrize(
    "imports",
    [
        pytest.param("import keras, keras_aploss", marks=pytest.mark.slow),
        "import keras_aploss; keras_aploss.ImageSet; import keras",
    ],
)
def test_keras_loads_saved_models_of_ours_whatever_was_imported(imports, tmp_path):
    import keras

    path = tmp_path / "model.keras"
    model = keras.Sequential(
        [keras.Input((4, 4, 3)), keras_aploss.GeneralizedMeanPooling2D()]
    )
    model.compile(loss=keras_aploss.APLoss(), metrics=[keras_aploss.BatchAP()])
    model.save(path)
    code = f"{imports}; print(len(keras.saving.load_model({str(path)!r}).layers))"
    assert run_python(code) == "1"

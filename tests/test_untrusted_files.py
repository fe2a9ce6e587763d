"""Nothing in the package runs code that a file brings: shown on the syntax tree of every module."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "zo_triton"
MODULES = sorted(PACKAGE.rglob("*.py"))
READERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml"}
CALLS = {"eval", "exec", "__import__"}
OWN_READER = "data/pickles.py"
"""The one module with an unpickler: it looks every name up in a list of its own."""


def dangers(source):
    """What a module does that could run a file's code, as line numbers and words."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        found += [(node.lineno, f"imports {name}") for name in names if name.split(".")[0] in READERS]
        if not isinstance(node, ast.Call):
            continue
        words = ast.unparse(node.func)
        options = {word.arg: ast.unparse(word.value) for word in node.keywords}
        last = words.split(".")[-1]
        if words in CALLS:
            found.append((node.lineno, f"calls {words}"))
        elif words == "torch.load" and options.get("weights_only") != "True":
            found.append((node.lineno, "calls torch.load without weights_only=True"))
        elif last in ("load", "fromfile", "loadtxt") and options.get("allow_pickle", "False") != "False":
            found.append((node.lineno, f"calls {words} with allow_pickle"))
        elif options.get("shell", "False") != "False" or words == "os.system":
            found.append((node.lineno, f"calls {words} through a shell"))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_can_run_what_a_file_brings(path):
    found = dangers(path.read_text(encoding="utf-8"))
    if path.relative_to(PACKAGE).as_posix() == OWN_READER:
        assert {words for _, words in found} == {"imports pickle"}
    else:
        assert found == []


def test_the_own_reader_looks_names_up_itself():
    """Its only use of pickle is a subclass with a find_class of its own, and the errors."""
    tree = ast.parse((PACKAGE / OWN_READER).read_text(encoding="utf-8"))
    uses = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {use for use in uses if use.startswith("pickle.")} == {
        "pickle.Unpickler",
        "pickle.UnpicklingError",
    }
    (reader,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and [ast.unparse(base) for base in node.bases] == ["pickle.Unpickler"]
    )
    assert "find_class" in {node.name for node in reader.body if isinstance(node, ast.FunctionDef)}
    assert not any("super()" in use for use in uses)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.numpy_pickle",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
    ],
)
def test_each_danger_would_be_found(source):
    assert len(dangers(source)) == 1


def test_what_is_harmless_is_not():
    assert dangers("torch.load(path, weights_only=True)\nnp.load(path)\njson.load(file)\nmodel.eval()") == []
    assert len(MODULES) > 200

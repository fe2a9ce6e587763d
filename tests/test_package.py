"""What ``import zo_triton`` and ``zo-triton`` promise before any of their code has run."""

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import iter_modules

import pytest

import zo_triton as zo

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = {
    "AGGREGATORS", "BlackBox", "Directions", "FusedTrainer", "Measurement", "NonFiniteLossError", "ZOConv2d",
    "ZOAdam", "ZOLinear", "ZOMLP", "ZOSGD", "accumulate", "data", "differences", "estimate_gradient", "gram",
    "integrations", "nzk", "sample", "testing", "use_engine",
}  # fmt: skip
HEAVY = ("torch", "numpy", "numba", "triton", "matplotlib", "sklearn", "rich")


def python(*arguments: str) -> str:
    """Standard output of a fresh interpreter in which importing any heavy package fails."""
    blocked = f"import sys; sys.modules.update(dict.fromkeys({HEAVY})); "
    command = [sys.executable, "-c", blocked + arguments[0], *arguments[1:]]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_public_names_are_exported():
    assert set(zo.__all__) >= PUBLIC


@pytest.mark.parametrize("name", zo.__all__)
def test_every_exported_name_loads_and_stays(name):
    assert getattr(zo, name) is getattr(zo, name)


def test_an_import_of_everything_works():
    names: dict[str, object] = {}
    exec("from zo_triton import *", names)
    assert names.keys() - {"__builtins__"} == set(zo.__all__)


def test_classes_are_those_of_their_modules():
    from zo_triton import directions, ops, optim

    assert zo.ZOSGD is optim.ZOSGD
    assert zo.Measurement is optim.Measurement
    assert zo.Directions is directions.Directions
    assert zo.sample is ops.sample


def test_a_module_is_public_or_says_that_it_is_not():
    """The reference's page names what is neither exported nor underscored."""
    modules = {module.name for module in iter_modules(zo.__path__) if module.name[0] != "_"}
    own = modules - set(zo.__all__)
    assert own == {
        "cli", "commands", "compilation", "cpu", "distributions", "hadamard", "kernels", "opcases", "overlap",
        "philox", "pytest_plugin", "reference", "tuning", "warmup",
    }  # fmt: skip


@pytest.mark.parametrize("name", [name for name in zo.__all__ if hasattr(getattr(zo, name), "__path__")])
def test_a_public_package_exports_what_there_is(name):
    package = getattr(zo, name)
    for exported in package.__all__:
        assert exported[0] != "_"
        assert hasattr(package, exported)


def test_a_misspelt_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'zo_triton' has no attribute 'ZOSDG'"):
        _ = zo.ZOSDG


def test_names_are_listed_before_they_are_loaded():
    assert set(eval(python("import zo_triton; print(dir(zo_triton))"))) >= PUBLIC


def test_directions_need_no_framework():
    assert python("import zo_triton as zo; print(zo.Directions(0, 0, 8)[2:4].num)") == "2\n"


def test_integrations_load_no_library_before_one_is_named():
    assert python("import zo_triton as zo; print(zo.integrations.__all__)") == "['logging', 'transformers']\n"


def test_a_name_loads_the_custom_ops():
    code = "import torch, zo_triton; zo_triton.use_engine; torch.ops.zo_triton.sample.default"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_step_loads_neither_torchs_compiler_nor_triton():
    """Which take longer to load than all else takes up to a first step."""
    code = (
        "import sys, torch, zo_triton as zo; w = torch.ones(3)\n"
        "for make in (zo.ZOSGD, zo.ZOAdam):\n"
        "    make([w], lr=0.1, directions=4).step(lambda: w.square().sum())\n"
        "assert 'numba' in sys.modules\n"
        "assert not {'torch._dynamo', 'triton', 'sympy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("compile", "--kernel", "attention"),
            "no kernel's name has 'attention' in it; known are ('linear bf16",
        ),
        (("compile", "--target", "sm_91"), "unknown target 'sm_91'; choose among ('sm_80', 'sm_90'"),
        (("compile", "--figure", "clocks.pdf"), "a figure is a .png or a .svg, got 'clocks.pdf'"),
        (("warmup", "rnn"), "there is no program 'rnn' to warm up for; choose among mlp, fused"),
    ],
)
def test_a_wrong_name_is_answered_before_anything_heavy_is_loaded(arguments, message):
    code = "sys.stderr = sys.stdout; from zo_triton.cli import main; assert main(sys.argv[1:]) == 2"
    assert message in python(code, *arguments)


def test_help_needs_nothing_heavy():
    run = "sys.argv[0] = 'zo-triton'; from zo_triton.cli import main; main()"
    assert "replay" in python(run, "--help")
    assert "--intact-prefix" in python(run, "replay", "--help")
    suite = f"sys.path.insert(0, {str(ROOT)!r}); from benchmarks.__main__ import main; main()"
    assert "report" in python(suite, "--help")
    assert "--method" in python(suite, "train", "--help")


def test_a_replay_that_lacks_a_file_is_told_so_without_a_framework():
    code = "import sys; from zo_triton.cli import main; print(main(sys.argv[1:]))"
    assert python(code, "replay", "log.zo") == "2\n"


def test_the_command_is_installed():
    (command,) = entry_points(group="console_scripts", name="zo-triton")
    assert command.value == "zo_triton.cli:main"


def test_the_version_is_pyprojects():
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert zo.__version__ == version


def test_the_package_is_marked_as_typed():
    assert (ROOT / "zo_triton" / "py.typed").is_file()

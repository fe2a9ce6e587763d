"""The files that other programs read of the repository say what the package says."""

import re

import yaml
from documents import ROOT

PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def read(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_citation_is_of_this_version_and_licence():
    found = read("CITATION.cff")
    assert f'version = "{found["version"]}"' in PROJECT
    assert f'license = "{found["license"]}"' in PROJECT


def test_the_workflow_runs_on_every_python_that_the_package_names():
    jobs = read(".github/workflows/ci.yml")["jobs"]
    (oldest,) = re.findall(r'requires-python = ">=([\d.]+)"', PROJECT)
    assert jobs["oldest"]["steps"][1]["with"]["python-version"] == oldest
    versions = [oldest, *jobs["test"]["strategy"]["matrix"]["python"]]
    assert versions == re.findall(r"Programming Language :: Python :: (3\.\d+)", PROJECT)
    assert {"run": ".ci/run"} in jobs["test"]["steps"]
    assert (ROOT / ".ci" / "run").is_file()


def test_the_workflow_uses_the_wheel_on_every_python():
    jobs = read(".github/workflows/ci.yml")["jobs"]
    assert jobs["test"]["steps"][-1] == {"run": "make test-wheel WHEEL_PYTHONS=${{ matrix.python }}"}
    last = jobs["oldest"]["steps"][-1]
    assert last["run"].endswith("tests/packaging")
    assert last["env"] == {"ZO_TRITON_PYTHONS": jobs["oldest"]["steps"][1]["with"]["python-version"]}
    (target,) = re.findall(
        r"^test-wheel:.*\n\t(.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert target.startswith('ZO_TRITON_PYTHONS="$(WHEEL_PYTHONS)" ')
    assert target.endswith("tests/packaging")


def test_what_the_image_copies_is_there():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for name in line.split()]
    assert len(copied) > 4
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_each_issue_template_asks_for_something():
    templates = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert len(templates) >= 2
    for template in templates:
        form = yaml.safe_load(template.read_text(encoding="utf-8"))
        assert form["name"]
        assert any(field["validations"]["required"] for field in form["body"])

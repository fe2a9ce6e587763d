import re

import pytest

from benchmarks import __main__ as cli


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("train", "report", "nzk", "race", "gpu"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["trian"], "invalid choice: 'trian'"),
        (["train", "--steps", "many"], "invalid int value: 'many'"),
        (["train", "--steps", "0"], "steps must be at least 1, got 0"),
        (["train", "--task", "mnist"], "unknown task 'mnist'; choose one of ('digits', 'mnist-mlp'"),
        (["train", "--method", "lbfgs"], "unknown method 'lbfgs'; choose one of ('zo-adam'"),
        (["train", "--engine", "abacus"], "unknown engine 'abacus'"),
        (["train", "--lr", "nan"], "lr must be finite and not negative, got nan"),
        (["train", "--directions", "0"], "directions must be at least 1 and at most 1048576, got 0"),
        *(
            (
                ["train", "--directions", str(many)],
                f"directions must be at least 1 and at most 1048576, got {many}",
            )
            for many in (2**20 + 1, 2**31, 2**32, 10**20)
        ),
        (["train", "--seed", "-1"], "seed must be in [0, 2**64), got -1"),
        (["report", "--seed", "-1"], "seed must be in [0, 2**64), got -1"),
        (["render", "nowhere"], "there is no file or folder nowhere/results.json."),
        (["report", "--compare", "a", "b"], "there is no file or folder a/results.json."),
        (["nzk"], "required: NAME"),
        (["nzk", "minst"], "invalid choice: 'minst'"),
        (["nzk", "linear", "--steps", "0"], "steps must be from 10"),
        (["nzk", "linear", "--lr", "-1"], "lr must be positive and finite, got -1.0"),
        (["nzk", "mnist", "--resize", "cubic"], "unknown resize 'cubic'"),
        (["nzk", "linear", "--engine", "abacus"], "unknown engine 'abacus'"),
        (["nzk", "linear", "--tiny", "--export", "nowhere/data.mat"], "nowhere does not exist"),
    ],
)
def test_mistakes_get_one_line_and_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main(arguments)
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_strangers_is_refused_before_anything_runs(tmp_path, capsys, monkeypatch):
    (tmp_path / "thesis.tex").write_text("")
    monkeypatch.setattr("benchmarks.suite.run_parts", lambda *a: pytest.fail("it ran"))
    assert cli.main(["report", "--out", str(tmp_path)]) == 2
    assert "'thesis.tex'" in capsys.readouterr().err


def test_an_interrupted_report_replaces_nothing(tmp_path, capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.suite.run_parts", interrupted)
    assert cli.main(["report", "--out", str(tmp_path / "out")]) == 130
    assert "nothing was replaced" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["zo-adam", "adam"])
def test_train_prints_plain_lines_when_it_is_not_a_terminal(method, capsys):
    assert cli.main(["train", "--method", method, "--steps", "60", "--directions", "16"]) == 0
    *lines, summary = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["1/60", "50/60", "60/60"]
    assert [line.endswith(" left") for line in lines] == [False, True, False]
    end = lines[-1].partition("accuracy ")[2]
    assert summary.startswith(f"ended after 60 steps at accuracy {end}, at best ")
    assert summary.endswith((" s", " min"))
    losses = [float(line.split()[3]) for line in lines]
    assert losses[-1] < losses[0]


def test_train_shows_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert cli.main(["train", "--method", "sgd", "--steps", "5"]) == 0
    text = capsys.readouterr().out
    assert "5/5" in text
    assert "loss" in text


def test_a_tiny_experiment_from_end_to_end(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZO_TRITON_DATA", str(tmp_path / "data"))
    assert cli.main(["nzk", "mnist", "--tiny", "--export", "data.mat"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("note: mnist is not in")
    assert "digits 3 v 5" in lines[0]
    out = tmp_path / "reports" / "tiny" / "nzk" / "mnist"
    assert lines[-1].startswith(f"wrote {out / 'report.md'} and report.html after ")
    assert {entry.name for entry in out.iterdir()} == {
        "report.html", "report.md", "results.json", "losses.svg", "kernels.svg", "snapshots.svg", "network.svg",
    }  # fmt: skip
    assert (tmp_path / "data.mat").is_file()


def test_an_experiment_shows_a_bar_on_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    out = tmp_path / "out"
    assert cli.main(["nzk", "variances", "--tiny", "--lr", "1", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "note: normal(1.5): lr 1 is beyond the stable limit" in text.replace("\n", " ")
    assert f"{out / 'report.md'}" in text


def test_an_interrupted_experiment_replaces_nothing(tmp_path, capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.nzk.run.run_experiment", interrupted)
    assert cli.main(["nzk", "linear", "--out", str(tmp_path / "out")]) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["sgd", "zo-sgd"])
def test_a_run_that_diverges_says_so_in_one_line(method, capsys):
    arguments = ["train", "--method", method, "--lr", "1e9", "--directions", "4", "--steps", "60"]
    assert cli.main(arguments) == 2
    *compiling, told = capsys.readouterr().err.splitlines()
    assert all("compiling the CPU kernels" in line for line in compiling)
    assert re.search(
        r"the run diverged (at once|from [\d.]+) by step \d+ \(.*\); lower --lr, which is 1e\+09", told
    )

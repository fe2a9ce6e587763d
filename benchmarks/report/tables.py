"""The report's tables: numbers of one section laid out as Markdown."""

from __future__ import annotations

from typing import Any

from benchmarks.report.statistics import median_reached, quartiles_reached
from zo_triton._tables import lay_out, number


def race(section: dict[str, Any]) -> str:
    """One row a method: time, steps and evaluations to each target, fastest to the hardest target first."""
    targets = section["config"]["targets"]
    hardest = max(targets)

    def place(method: dict[str, Any]) -> float:
        seconds = median_reached(method["runs"], hardest, "seconds")
        return float("inf") if seconds is None else seconds

    headers = ["method", "tuned lr", "trials", "set-up s", "ms a step", "evaluations a step"]
    headers += [
        f"{unit} to {100 * target:.0f} %" for target in targets for unit in ("seconds", "evaluations")
    ]
    headers.append("best accuracy")
    rows = []
    for method in sorted(section["methods"], key=place):
        runs = method["runs"]
        if "error" in method:
            failed = f"failed: {method['error'].replace('|', '/')[:80]}"
            rows.append([method["label"], failed, *[""] * (len(headers) - 2)])
            continue
        row = [
            method["label"],
            number(method["lr"]),
            str(len(method["trials"])),
            number(method["set_up_seconds"]),
            number(method["step_ms"]),
            str(method["evaluations_per_step"]),
        ]
        for target in targets:
            row.append(_with_range(runs, target))
            row.append(number(median_reached(runs, target, "evaluations")))
        accuracies = sorted(max(point[4] for point in run["curve"]) for run in runs)
        row.append(f"{100 * accuracies[len(accuracies) // 2]:.1f} %")
        rows.append(row)
    return lay_out(headers, rows)


def _with_range(runs: list[dict[str, Any]], target: float) -> str:
    """Median seconds to a target, and in brackets their quartiles where there are several runs."""
    middle = number(median_reached(runs, target, "seconds"))
    if len(runs) < 2:
        return middle
    low, high = quartiles_reached(runs, target, "seconds")
    return f"{middle} ({number(low, missing='–')} – {number(high, missing='never')})"


def sweep(section: dict[str, Any]) -> str:
    """Every trial of the learning-rate sweep: steps to the hardest target, or the best accuracy reached."""
    rates = section["tuning"]["learning_rates"]
    rows = []
    for method in section["methods"]:
        if not method["trials"]:
            continue
        cells = []
        for trial in method["trials"]:
            accuracy = trial["best_accuracy"]
            reached = f"{trial['steps']} steps" if trial["steps"] is not None else f"({100 * accuracy:.0f} %)"
            cells.append(f"**{reached}**" if trial["lr"] == method["lr"] else reached)
        rows.append([method["label"], *cells])
    return lay_out(["method", *(f"lr {rate:g}" for rate in rates)], rows)


def step_time(case: dict[str, Any]) -> str:
    """One row a contender, with its ratio to the case's first."""
    first = case["contenders"][0]["median_ms"]
    rows = [
        [
            contender["label"],
            contender["dtype"],
            str(contender["evaluations"]),
            number(contender["median_ms"]),
            number(contender["fastest_ms"]),
            f"{contender['median_ms'] / first:.3g}×",
        ]
        for contender in case["contenders"]
    ]
    label = case["contenders"][0]["label"]
    return lay_out(["contender", "dtype", "evaluations", "median ms", "fastest ms", f"against {label}"], rows)


def step_split(section: dict[str, Any]) -> str:
    """One row a case: milliseconds of each part and of a whole step."""
    names = list(section["cases"][0]["parts"])
    rows = [
        [case["name"], *(number(case["parts"][name]) for name in names), number(case["step_ms"])]
        for case in section["cases"]
    ]
    return lay_out(["case", *(f"{name} ms" for name in names), "whole step ms"], rows)


def accuracy(section: dict[str, Any]) -> str:
    """One row an ε, one column a method."""
    names = list(section["rows"][0]["errors"])
    rows = [
        [f"{row['eps']:.0e}", *(_error(row["errors"][name]) for name in names)] for row in section["rows"]
    ]
    return lay_out(["ε", *names], rows)


def gate(section: dict[str, Any]) -> str:
    """One row a walk."""
    rows = [
        [row["kernel"], row["directions"], row["steps"], _error(row["worst"]), _error(row["allowed"])]
        for row in section["rows"]
    ]
    return lay_out(["kernel", "K", "steps", "largest relative error", "allowed"], rows)


def throughput(section: dict[str, Any]) -> str:
    """One row a batch: evaluations over those of plain inference."""
    rows = [
        [row["batch"], f"{row['one_sided']:.2f}×", f"{row['central']:.2f}×", number(row["evaluations_per_s"])]
        for row in section["rows"]
    ]
    return lay_out(["batch", "fused, one-sided", "fused, central", "evaluations a second, central"], rows)


def growth(curve: dict[str, Any]) -> str:
    """One row a contender: milliseconds at each value, and the exponent."""
    rows = [
        [one["label"], *(number(each) for each in one["ms"]), f"{one['exponent']:.2f}"]
        for one in curve["contenders"]
    ]
    return lay_out(["ms a step", *(f"{curve['axis']} {each}" for each in curve["values"]), "exponent"], rows)


def memory(case: dict[str, Any]) -> str:
    """One row a method, with its ratio to one chunk of differences."""
    rows = [
        [method["label"], number(method["excess_mib"]), f"{method['excess_mib'] / case['chunk_mib']:.3g}×"]
        for method in case["methods"]
    ]
    return lay_out(
        ["method", "MiB over inference", f"against one chunk of {case['chunk_mib']:.3g} MiB"], rows
    )


def benchmarks(section: dict[str, Any]) -> str:
    """One row a benchmark, grouped, with its ratio to the group's fastest."""
    entries = sorted(
        section["entries"], key=lambda entry: (entry["group"], entry["median_ms"], entry["name"])
    )
    fastest: dict[str, float] = {}
    rows = []
    for entry in entries:
        reference = fastest.setdefault(entry["group"], entry["median_ms"])
        extra = ", ".join(f"{key} {_plain(value)}" for key, value in sorted(entry["extra"].items()))
        rows.append(
            [
                entry["group"],
                entry["name"],
                number(entry["median_ms"]),
                f"{entry['median_ms'] / reference:.3g}×",
                extra,
                str(entry["commit"])[:9] + ("+" if entry["dirty"] else ""),
            ]
        )
    return lay_out(["group", "benchmark", "median ms", "against fastest", "details", "commit"], rows)


def _error(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"


def _plain(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)

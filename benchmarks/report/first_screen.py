"""A report's first screen: when it is worth it, when not, what it costs, worked out from the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite

from benchmarks.report.load import was_busy
from benchmarks.report.records import Record
from benchmarks.report.registry import parts
from benchmarks.report.section import Data, Loss
from benchmarks.report.statistics import OURS, UNITS, find, median_reached, soonest, units
from benchmarks.report.words import LEVEL, among, listed, times
from zo_triton._tables import lay_out, number

MISSING = "–"

ALONE = "fused, losses alone"
"""Among the fused methods those that ask for nothing but a batch's loss."""

EAGER = "first, eager"
"""Among backpropagation's those that ``torch.compile`` has no part in."""


@dataclass(frozen=True)
class Standing:
    """Where the families stand in a race: each family's soonest method at the hardest target.

    Attributes:
        task: The race's.
        limit: Seconds of training after which a run ends.
        target: The hardest one.
        methods: By family, :data:`ALONE` and :data:`EAGER` being two more, the soonest of it that took part.
        seconds: By family; infinite where it took part and did not get there.
        failed: Fused methods were to take part, and every one failed.
    """

    task: str
    limit: float
    target: float
    methods: dict[str, Data]
    seconds: dict[str, float]
    failed: bool

    def ratio(self, family: str, ours: str) -> float:
        """How many times as long as our methods of a kind a family took that got there, or they did."""
        return self.seconds[family] / self.seconds[ours]


def blocks(record: Record, picture: Sequence[str]) -> list[str]:
    """Three sentences over all races, and the main race's table.

    Args:
        record: A record with at least one race; its first is the main one.
        picture: Blocks of the main race's figure.
    """
    races = [data for section, _, data in parts(record) if section.name == "race"]
    standings = [_standing(race) for race in races]
    sentences = [_worth(standings), _not_worth(standings), _cost(standings[0])]
    memory = record["sections"].get("memory", {"cases": []})["cases"][:1]
    busy = was_busy(record["environment"])
    if busy:
        sentences = ["**Who was sooner is not told:** other programs ran beside the races."]
    table = _table(races[0], standings[0], memory, busy)
    return ["\n".join(f"- {line}" for line in sentences), *table, *picture]


def findings(record: Record) -> list[str]:
    """One list of what each section found, and a table of every comparison that was lost.

    Where the machine was busy, nothing that rests on times.
    """
    sentences: list[str] = []
    lost: list[Loss] | None = None
    busy = was_busy(record["environment"])
    for section, _, data in parts(record):
        if busy and section.timed:
            continue
        found = section.findings(data)
        sentences += found.sentences
        if found.lost is not None:
            lost = [*(lost or ()), *found.lost]
    if lost is not None and not lost:
        sentences.append("**Fused lost no comparison here.**")
    told = ["\n".join(f"- {line}" for line in sentences)] if sentences else []
    return [*told, "**Where fused lost**", _losses(lost)] if lost else told


def _losses(lost: list[Loss]) -> str:
    """One row for everybody who did better at something, with all the places where."""
    places: dict[str, list[str]] = {}
    for who, where in lost:
        places.setdefault(who, []).append(where)
    return lay_out(["who did better", "where"], [[who, "; ".join(where)] for who, where in places.items()])


def _standing(race: Data) -> Standing:
    target = max(race["config"]["targets"])
    methods: dict[str, Data] = {}
    for method in soonest(race["methods"], target):
        for family in _families(method) if method["runs"] else ():
            methods.setdefault(family, method)
    taken = {name: median_reached(one["runs"], target, "seconds") for name, one in methods.items()}
    seconds = {name: inf if one is None else one for name, one in taken.items()}
    failed = OURS not in methods and any(method["family"] == OURS for method in race["methods"])
    return Standing(race["task"], race["config"]["run_seconds"], target, methods, seconds, failed)


def _families(method: Data) -> list[str]:
    """Whose soonest it may be; records from before anything was asked for or compiled say neither."""
    found = [method["family"]]
    if method["family"] == OURS and not method.get("asks"):
        found.append(ALONE)
    if method["family"] == "first" and not method.get("compiled"):
        found.append(EAGER)
    return found


def _worth(standings: list[Standing]) -> str:
    """Where the fused methods were sooner than other forward-only ones, and than backpropagation."""
    cases = []
    rivals, won = _compared(standings, "zeroth", ALONE, ours_ahead=True)
    if won:
        where = _where(won, rivals, "zeroth", ALONE, "another")
        cases.append(
            f"only losses can be had: of the forward-only methods the fused one was the soonest {where}"
        )
    rivals, won = _compared(standings, "first", OURS, ours_ahead=True)
    if won:
        where = _where(won, rivals, "first", OURS, "both")
        cases.append(f"backpropagation is the alternative: it was later {where}")
    rivals, ahead = _compared(standings, EAGER, OURS, ours_ahead=True)
    uncompiled = [one for one in ahead if one not in won]
    if uncompiled:
        where = _where(uncompiled, rivals, EAGER, OURS, "both")
        cases.append(f"backpropagation would not be compiled: eager it was later {where}")
    if cases:
        return f"**Worth it when** {'; also when '.join(cases)}."
    if not any(isfinite(one.seconds.get(OURS, inf)) for one in standings):
        return "**Worth it when:** nothing here shows it; the fused method reached no race's target."
    if not any({"zeroth", "first"} & one.seconds.keys() for one in standings):
        return "**Worth it when:** nothing here shows it; no other method took part."
    return "**Worth it when:** nothing here shows it; in no race was a fused method clearly the soonest."


def _not_worth(standings: list[Standing]) -> str:
    """Where backpropagation or another forward-only method was sooner, and what was not reached at all."""
    cases = []
    rivals, lost = _compared(standings, "first", OURS, ours_ahead=False)
    if lost:
        where = _where(lost, rivals, "first", OURS, "both")
        cases.append(f"a gradient can be had: backpropagation was sooner {where}")
    rivals, lost = _compared(standings, "zeroth", ALONE, ours_ahead=False)
    if lost:
        where = _where(lost, rivals, "zeroth", ALONE, "both")
        labels = dict.fromkeys(one.methods["zeroth"]["label"] for one in lost)
        cases.append(f"{listed(list(labels), 'or')} will do: sooner {where}")
    for one in standings:
        if one.failed:
            cases.append(f"the task is like {one.task}: the fused method failed there")
        elif OURS in one.seconds and not isfinite(one.seconds[OURS]):
            goal = f"{100 * one.target:.0f} % on {one.task}"
            cases.append(
                f"{goal} is wanted within {one.limit:g} s of training: the fused method did not get there"
            )
    if cases:
        return f"**Not when** {'; nor when '.join(cases)}."
    absent = "" if any("first" in one.seconds for one in standings) else ", but backpropagation took no part"
    return f"**Not when:** nothing here speaks against it; nobody was clearly sooner{absent}."


def _compared(
    standings: list[Standing], family: str, ours: str, ours_ahead: bool
) -> tuple[list[Standing], list[Standing]]:
    """The races in which a family and ours of a kind took part, and those that one of the two clearly won."""
    both = [one for one in standings if {ours, family} <= one.seconds.keys()]
    later, sooner = (family, ours) if ours_ahead else (ours, family)
    # Where neither got there, infinity is not more than infinity.
    return both, [one for one in both if one.seconds[later] > LEVEL * one.seconds[sooner]]


def _where(some: list[Standing], everything: list[Standing], family: str, ours: str, who: str) -> str:
    """In how many of the races, and by how much where both got there."""
    text = among([one.task for one in some], [one.task for one in everything], "race")
    ratios = [
        max(ratio, 1 / ratio) for one in some if isfinite(ratio := one.ratio(family, ours)) and ratio > 0
    ]
    if not ratios:
        return f"{text}, where {'no other' if who == 'another' else 'only one of the two'} got there"
    low, high = times(min(ratios)), times(max(ratios))
    return f"{text} (by {low if low == high else f'{low} to {high}'} where {who} got there)"


def _cost(standing: Standing) -> str:
    """Evaluations and milliseconds of the main race, beside backpropagation's."""
    if OURS not in standing.methods:
        return f"**What it costs** is not known: no fused method ran on {standing.task}."
    told = [_work(standing, family) for family in (OURS, "first") if family in standing.methods]
    return f"**What it costs**, on {standing.task}: {'; '.join(told)}.{_asked(standing)}"


def _asked(standing: Standing) -> str:
    """What our soonest asks for beside losses, and how our soonest that asks for nothing more stands to it."""
    ours = standing.methods[OURS]
    if not ours.get("asks"):
        return ""
    label = ours["label"]
    text = f" {label[:1].upper()}{label[1:]} {ours['asks']}"
    if ALONE not in standing.methods:
        return f"{text}."
    alone, other = standing.seconds[ALONE], standing.methods[ALONE]["label"]
    if not isfinite(alone):
        return f"{text}; {other}, which asks for losses alone, did not get there."
    return (
        f"{text}; {other}, which asks for losses alone, took {times(alone / standing.seconds[OURS])} as long."
    )


def _work(standing: Standing, family: str) -> str:
    method = standing.methods[family]
    taken = median_reached(method["runs"], standing.target, "evaluations")
    step = f"{method['evaluations_per_step']} evaluations a step of {number(method['step_ms'], 'ms')}"
    goal = f"{100 * standing.target:.0f} %"
    total = f"did not reach {goal}" if taken is None else f"{taken:,.0f} of them to {goal}"
    backward = ", where a backward pass counts as two" if family == "first" else ""
    return f"{method['label']} makes {step}, {total}{backward}"


def _table(race: Data, standing: Standing, memory: list[Data], busy: bool) -> list[str]:
    """The main race in short, soonest first; below it what the memory was measured on. No ratio if it was busy."""
    backprop = inf if busy else standing.seconds.get("first", inf)
    peaks = {
        method["name"]: found["excess_mib"]
        for case in memory
        for method in race["methods"]
        if (found := find(case["methods"], method["name"])) is not None
    }
    goal = f"{100 * standing.target:.0f} %"
    against = isfinite(backprop)
    beside = units(race["methods"])[1:]
    headers = [
        "contender",
        f"seconds to {goal} on {standing.task}",
        *(["against backprop"] if against else []),
    ]
    headers += [*(UNITS[unit] for unit in beside), "ms a step", *(["peak MiB"] if peaks else [])]
    rows = []
    for method in soonest(race["methods"], standing.target):
        seconds, *others = (
            median_reached(method["runs"], standing.target, unit) for unit in ("seconds", *beside)
        )
        label = f"**{method['label']}**" if method["family"] == OURS else method["label"]
        row = [label, "failed" if "error" in method else number(seconds)]
        row += [MISSING if seconds is None else f"{number(seconds / backprop)}×"] if against else []
        step = None if "error" in method else method["step_ms"]
        row += [number(each, missing=MISSING) for each in (*others, step)]
        row += [number(peaks.get(method["name"]), missing=MISSING)] if peaks else []
        rows.append(row)
    note = [f"Peak memory is a step's over inference, measured on {memory[0]['name']}."] if peaks else []
    return [lay_out(headers, rows), *note]

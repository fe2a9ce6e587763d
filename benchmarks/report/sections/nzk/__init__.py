"""An experiment of the kernel theory: loss curves, accelerations, rates and kernels, predicted and measured."""

from __future__ import annotations

from benchmarks.report.section import Data, Figure, Findings, Section, Show
from benchmarks.report.sections.nzk import figures, tables
from zo_triton._tables import number


def title(section: Data) -> list[str]:
    """The experiment's own title, and what to know before anything else."""
    return [f"# {section['title']}", *(f"> **Note:** {note}" for note in section["notes"])]


def blocks(section: Data, show: Show) -> list[str]:
    """From the curves to what explains them."""
    cases, settings = section["cases"], section["settings"]
    found = ["## Loss curves", _curves_text(section), *show("losses")]
    for case in cases:
        found += [f"### {case['name']}", case["note"], tables.losses(case)]
    if section["network"]:
        found += ["## The real network", _network_text(section), *show("network")]
        found += [_network_sentence(run, settings["steps"]) for run in section["network"]["runs"]]
    found += ["## Shared against independent vectors, at equal η", _ACCELERATION, tables.acceleration(cases)]
    found += ["## Each method at its own best stable η", _RATES.format(steps=settings["steps"])]
    for case in cases:
        found += [*_heading(case, cases), tables.rates(case, settings["lr"])]
    found += ["## Kernels", _KERNELS.format(draws=cases[0]["factors"][0]["draws"])]
    for case in cases:
        found += [*_heading(case, cases), tables.factors(case)]
    return [*found, *show("kernels"), "## Outputs at chosen steps", *show("snapshots")]


def findings(section: Data) -> Findings:
    """How predicted and measured agree, a sentence or two a case, and where the real network leaves the theory."""
    lines = []
    for case in section["cases"]:
        found, rows = case["acceleration"], {row["method"]: row for row in case["rates"]}
        worst = max(case["factors"], key=lambda row: abs(row["z"] or 0.0))
        off = abs(found["ratio"] / found["ratio_predicted"] - 1)
        sentence = (
            f"**{case['name']}**: at equal η one shared vector walks the mean path "
            f"{tables.digits(found['ratio'])} times as fast as independent ones (predicted "
            f"{tables.digits(found['ratio_predicted'])}, off by {100 * off:.2f} %); the largest |z| of its "
            f"{len(case['factors'])} measured factors is {abs(worst['z'] or 0.0):.1f}."
        )
        finals = {name: rows[name]["best"]["final"] for name in ("shared", "update", "independent", "first")}
        sentence += (
            " Each at its own best stable η ends at a mean loss of "
            + ", ".join(f"{number(value)} ({rows[name]['label']})" for name, value in finals.items())
            + "."
        )
        lines.append(sentence)
        if case["agreement"]:
            gap = case["agreement"]
            lines.append(
                f"**{case['name']}, fused kernels against function space**: |f_fused − f| is at most "
                f"{gap['worst']:.1e} of the larger of |f| and |f − y| over {gap['compared']} recorded "
                f"steps (at step {gap['step']})."
            )
        elif case["agreement"] is None:
            lines.append(
                f"**{case['name']}**: the field has no {case['distribution']} directions, so there is no run by "
                "the fused kernels."
            )
    if section["network"]:
        lines += [_network_sentence(run, section["settings"]["steps"]) for run in section["network"]["runs"]]
    return Findings(lines)


_ACCELERATION = (
    "The mean path with factor c is y + (I − (ηc/n)·NTK)ᵗ(f₀ − y), so a method's factor says how far it walks "
    "per step. It is measured twice: by a regression of drawn kernels on the NTK over all residual directions, "
    "and from the runs themselves, as each step's length along the first-order step. A larger factor is the same "
    "path walked with a larger step."
)
_RATES = (
    "Closed forms of the mean loss E L(f_t) over runs. *Half* and *a tenth* are of what can be shed: the loss at "
    "the start less what no parameter reaches. *Stable* means that the second moment does not grow. The best η is "
    "the one with the smallest mean loss after {steps} steps, and of nearly equal ones the fastest."
)
_KERNELS = (
    "Each kernel from {draws} draws of the field's (or scipy's) vectors, in 25 batches that give the standard "
    "error; the factor is its multiple of the NTK, every eigenvector above 1e-3 of the largest "
    "eigenvalue weighing the same."
)


def _curves_text(section: Data) -> str:
    settings = section["settings"]
    counts = dict.fromkeys(f"{case['ensembles'][0]['runs']}" for case in section["cases"])
    runs = ", ".join(counts)
    return (
        f"Loss (1/2n)|f − y|², η = {settings['lr']:g}, {settings['steps']} steps, K = {settings['directions']}. "
        "Solid: one run in function space. Circles: a float32 run in parameter space through the fused kernels, "
        "with the same vectors. Dashed: the predicted mean loss; dotted: the loss of the mean outputs, so that "
        f"their distance is the predicted spread. Shaded: 10 to 90 % of {runs} more runs."
    )


def _network_text(section: Data) -> str:
    network, settings = section["network"], section["settings"]
    return (
        f"The network itself, not linearised, by the ordinary zeroth-order step: {network['directions']} one-sided "
        f"directions of signs a step, ε = {network['eps']:g}, η = {settings['lr']:g}. *Average* is the usual "
        "estimator; *best* keeps the direction of the steepest slope alone, as the paper's run does, which "
        "lengthens the mean step by E max u², drawn for signs along the first gradient. The prediction is the "
        "closed form of the mean loss of the linearised network."
    )


def _network_sentence(run: Data, steps: int) -> str:
    limit = 100 * run["threshold"]
    head = f"**Real network, {run['aggregator']} of {run['directions']}** (factor {tables.digits(run['factor'])})"
    if run["left_at"] is None:
        text = (
            f"{head}: its loss stays within {limit:g} % of the prediction for all {run['final_step']} steps; the "
            f"largest deviation is {100 * run['worst']:+.2g} %, at step {run['worst_step']}."
        )
    else:
        text = (
            f"{head}: its loss leaves the prediction by more than {limit:g} % at step {run['left_at']} "
            f"({100 * run['left_deviation']:+.1f} %), deviates most at step {run['worst_step']} "
            f"({100 * run['worst']:+.3g} %) and ends {100 * run['final']:+.3g} % off at step {run['final_step']}."
        )
    share = 100 * run["linear_left_share"]
    text += f" Of {run['linear_runs']} runs of the linearised network {share:.0f} % ever leave it by chance"
    text += (
        f", half of them by step {run['linear_left_at']:.0f}." if run["linear_left_at"] is not None else "."
    )
    if not run["finished"]:
        text += f" The run diverged before its {steps} steps were done."
    return text


def _heading(case: Data, cases: list[Data]) -> list[str]:
    return [f"### {case['name']}"] if len(cases) > 1 else []


SECTION = Section(
    name="nzk",
    place=170,
    keys=("name", "title", "settings", "notes", "cases", "network"),
    title=title,
    blocks=blocks,
    figures=(
        Figure(
            "losses",
            "Loss curves: first order, zeroth order with independent and shared vectors, and their closed forms",
            figures.draw_losses,
        ),
        Figure("kernels", "Expected kernel, empirical kernel and their difference", figures.draw_kernels),
        Figure("snapshots", "Outputs at chosen steps", figures.draw_snapshots),
        Figure(
            "network",
            "The real network against the prediction for the linearised one",
            figures.draw_network,
            lambda section: section["network"],
        ),
    ),
    findings=findings,
)

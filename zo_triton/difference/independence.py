"""Before nodes are perturbed: how many samples there are, and whether one's nodes reach another's loss.

A layer's noise on one sample is credited with that sample's loss alone, so nothing may mix samples behind it. That
is measured, not assumed: some samples' nodes are moved, and the other samples' losses must stay where they are.
Masks that follow the bits of a sample's number tell every pair apart. Layers whose noise goes astray (before a
normalisation by the batch's statistics, or with the batch in another axis) are perturbed in their weights instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor

from zo_triton._warn import warn
from zo_triton.difference.applications import Application, layer_sizes
from zo_triton.difference.nodes import Mask, NodePlan, Nodes
from zo_triton.difference.plan import RestartError
from zo_triton.difference.reduced_losses import Losses
from zo_triton.directions import Directions

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

ASTRAY = 1e-5
"""Moved by less than this share of the samples' own, another sample's loss is taken to be at rest."""

CHECKED_EVERY = 64
"""Steps between two looks at whether it is still so, for masks and routing may change with the data."""

CHECKED_EARLY = (2, 8, 32)
"""Steps before that which look as well: a model that mixes samples now and then should be told soon.

Each look costs a third to a half of a small model's step. The first one comes after a step that has looked at all.
"""

MOST_TOKENS = 512
"""Tokens of a sample up to which it is measured whether a token reaches the loss of an earlier one."""

Probe = Callable[[Mask], Tensor]
"""Runs with a mask and gives the loss differences [P, S]."""


def is_due(step: int) -> bool:
    """Whether a step looks once more at what is known: some of the first, then every 64th."""
    return step % CHECKED_EVERY == 0 or step in CHECKED_EARLY


def settle(
    mode: DifferenceMode, nodes: Nodes, directions: Directions, probe: Probe, again: bool, scouting: bool
) -> NodePlan:
    """What is known after a run that was what it should be: samples told apart, layers where they belong.

    Args:
        mode: The mode of the run.
        nodes: What it remembers.
        directions: Of the whole step.
        probe: Measures what depends on what.
        again: Look once more at a program that is known.
        scouting: The run's differences are not wanted.

    Raises:
        RestartError: It was not; with what is known now.
        ValueError: No layer is left to be perturbed on its nodes.
    """
    plan, losses = nodes.plan, nodes.losses
    assert losses is not None
    if nodes.weights != plan.weights:
        plan = replace(plan, weights=frozenset(nodes.weights))
        applied = {i for application in nodes.applications for i in application.ids}
        if not scouting or not applied.isdisjoint(nodes.weights):
            _again(mode, plan)
    if not nodes.applications:
        raise ValueError(
            "perturb='activations' needs linear layers or convolutions whose outputs can be perturbed, and the "
            "closure has none with trained weights of their own; use perturb='weights'."
        )
    samples = _samples(losses, nodes.applications)
    uneven = [each for each in nodes.applications if each.rows % samples]
    if uneven:
        _move(mode, nodes, uneven, f"their outputs can't be cut into {samples} samples")
    if any(each.node.samples != samples for each in nodes.applications):
        _again(mode, replace(plan, samples=samples))
    if plan.choose is not None and not plan.chosen:
        moved = plan.choose(layer_sizes(nodes.applications, nodes.weights, nodes.shapes), samples, directions)
        _again(mode, replace(plan, weights=plan.weights | moved, chosen=True))
    known = nodes.program in plan.known
    if known and again and _has_changed(nodes, losses, samples, probe):
        warn(
            "samples, or tokens and the losses of earlier ones, that did not depend on each other do so now (a "
            "mask or a routing that changes with the data?): since they were last looked at, up to 64 steps ago, "
            "noise may have been credited with the wrong losses. They are looked at anew.",
            RuntimeWarning,
        )
        known, plan = False, replace(plan, known={})
    if known:
        return plan
    astray, causal = _measure(nodes.applications, losses, samples, probe)
    if astray:
        _move(mode, nodes, astray, "their outputs for one sample reach the losses of others")
    return plan.knowing(nodes.program, causal)


def _has_changed(nodes: Nodes, losses: Losses, samples: int, probe: Probe) -> bool:
    """Whether noise on later tokens of a random half of the samples moves other losses, or of the other half."""
    device, directions = losses.differences.device, nodes.directions
    tokens = losses.differences[0].numel() // samples
    draw = torch.Generator("cpu").manual_seed((directions.seed ^ directions.step) % 2**63)
    half = torch.rand(samples, generator=draw, dtype=torch.float32, device="cpu").argsort() < samples // 2
    causal = nodes.causal
    first = 0
    if causal and tokens > 1:
        first = int(torch.randint(1, tokens, (), generator=draw, dtype=torch.int64, device="cpu"))
    halves = torch.stack([half, ~half])[: 2 if samples > 1 else 1]
    later = torch.arange(tokens, dtype=torch.int64, device="cpu") >= first
    kept = (halves[:, :, None] & later).float().to(device)
    others = frozenset(range(len(nodes.applications))) - causal
    found = []
    for only, mask in ((causal, kept), (others, kept.amax(2, keepdim=True))):
        if only and (samples > 1 or first):
            moved = probe(Mask(mask, 0.0, only)).view(-1, samples, tokens).abs()
            found.append(_beyond(moved, mask.bool().expand(-1, -1, tokens)))
    return any(found)


def _again(mode: DifferenceMode, plan: NodePlan) -> NoReturn:
    raise RestartError(replace(mode.plan, nodes=plan))


def _move(mode: DifferenceMode, nodes: Nodes, which: Sequence[Application], why: str) -> None:
    """Starts again with these layers perturbed in their weights; refuses if none is left."""
    ids = {each for application in which for each in application.ids}
    left = [a for a in nodes.applications if not ids.intersection(a.ids)]
    names = ", ".join(f"parameter {i} of shape {tuple(nodes.shapes[i])}" for i in sorted(ids)[:4])
    names += ", …" if len(ids) > 4 else ""
    if not left:
        raise ValueError(
            f"no layer can be perturbed on its outputs ({names}): {why}. Put the batch first, return a loss a "
            "sample, replace statistics of the batch (BatchNorm in training mode) by GroupNorm or LayerNorm, or "
            "use perturb='weights'."
        )
    warn(
        f"{names} are perturbed in weight space and measured by the whole batch's loss: {why}. Batch statistics "
        "and a batch that is not the first axis do that.",
        UserWarning,
    )
    _again(mode, replace(nodes.plan, weights=nodes.plan.weights | ids))


def _samples(losses: Losses, applications: Sequence[Application]) -> int:
    """N: the first axis of the losses, unless they are those of flattened tokens."""
    rows = losses.differences.shape[1]
    leading = {a.leading for a in applications if a.leading is not None}
    if losses.differences.dim() == 3 or not leading or rows in leading:
        return rows
    return min(leading) if rows % min(leading) == 0 else rows


def _measure(
    applications: Sequence[Application], losses: Losses, samples: int, probe: Probe
) -> tuple[list[Application], frozenset[int]]:
    """Applications whose noise reaches other samples, and the numbers of those that reach no earlier token."""
    device = losses.differences.device
    tokens = losses.differences[0].numel() // samples
    masks = _sample_masks(samples, device)
    numbers = range(len(applications))
    astray: list[Application] = []
    if masks is not None and _goes_astray(masks.unsqueeze(2), None, samples, tokens, probe):
        astray = [
            applications[i]
            for i in numbers
            if _goes_astray(masks.unsqueeze(2), frozenset([i]), samples, tokens, probe)
        ]
    in_tokens = frozenset(i for i in numbers if applications[i].rows_a_sample == tokens)
    if astray or not 1 < tokens <= MOST_TOKENS or not in_tokens:
        return astray, frozenset()
    every = torch.ones(tokens, tokens, dtype=torch.float32, device=device)
    later = every.triu(1)[:-1]  # mask t moves the tokens after t
    if not _goes_back(later, in_tokens, samples, probe):
        return [], in_tokens
    return [], frozenset(i for i in in_tokens if not _goes_back(later, frozenset([i]), samples, probe))


def _sample_masks(samples: int, device: torch.device) -> Tensor | None:
    """For each bit of a sample's number those that have it, and those that have not: [2·bits, N]."""
    if samples == 1:
        return None
    bits = torch.arange((samples - 1).bit_length(), dtype=torch.int64, device=device)
    has = torch.arange(samples, dtype=torch.int64, device=device)[None, :] >> bits[:, None] & 1
    return torch.cat([has, 1 - has]).float()


def _goes_astray(masks: Tensor, only: frozenset[int] | None, samples: int, tokens: int, probe: Probe) -> bool:
    """Whether noise on the samples of any mask [P, N, 1] moves another's losses."""
    found = probe(Mask(masks, 0.0, only)).view(len(masks), samples, tokens).abs().amax(2)
    return _beyond(found, masks[:, :, 0].bool())


def _goes_back(later: Tensor, only: frozenset[int], samples: int, probe: Probe) -> bool:
    """Whether noise on the tokens of any mask [P, T] moves the loss of an earlier one."""
    masks = later.unsqueeze(1).expand(-1, samples, -1)
    found = probe(Mask(masks, 0.0, only)).view(masks.shape).abs().amax(1)
    return _beyond(found, later.bool())


def _beyond(found: Tensor, own: Tensor) -> bool:
    found = torch.nan_to_num(found, nan=0.0)  # of a sample whose loss is none at all
    reached = torch.where(own, found, 0).amax()
    others = torch.where(own, 0, found).amax()
    return bool(others > ASTRAY * reached)

"""Different addresses have different blocks; an address that loses a part on its way is found."""

import numpy as np
import pytest

import zo_triton as zo
from benchmarks.field.addressing import (
    anywhere,
    box,
    count_collisions,
    draw_blocks,
    edge_blocks,
    edges,
)
from zo_triton.directions import tensor_word
from zo_triton.philox import philox

SEED = 20260103
EDGES = [
    (2**64 - 1, 2**32 - 1, 2**32 - 1, 2**30 - 1, 2),
    (0, 0, 0, 0, 0),
    (2**32, 2**31, 2**16, 2**16, 1),
]


@pytest.mark.parametrize("address", EDGES)
def test_blocks_are_philox_of_the_address(address):
    seed, step, direction, tensor, part = address
    blocks = edge_blocks()
    counter = np.empty((len(blocks), 4), np.uint32)
    counter[:, 0] = blocks
    counter[:, 1:] = tensor_word(tensor, part), direction, step
    expected = philox(counter, (seed & 0xFFFFFFFF, seed >> 32))
    assert np.array_equal(draw_blocks(address, blocks), expected)


def test_nothing_collides_in_a_box():
    drawn, collisions = count_collisions(draw_blocks, box(2, 4, 4), np.arange(32))
    assert (drawn, collisions) == (2 * 2 * 3 * 4 * 4 * 32, 0)


def test_nothing_collides_at_the_edges():
    some = (address for number, address in enumerate(edges()) if number % 4 == 0)
    assert count_collisions(draw_blocks, some, edge_blocks())[1] == 0


def test_nothing_collides_anywhere():
    drawn, collisions = count_collisions(draw_blocks, anywhere(SEED, 300), edge_blocks())
    assert (drawn, collisions) == (2400, 0)


def lost_half_of_the_seed(address, blocks):
    return draw_blocks((address[0] % 2**32, *address[1:]), blocks)


def lost_the_part(address, blocks):
    return draw_blocks((*address[:4], 0), blocks)


def signed_direction(address, blocks):
    seed, step, direction, *rest = address
    return draw_blocks((seed, step, min(direction, 2**31 - 1), *rest), blocks)


def short_block(address, blocks):
    return draw_blocks(address, blocks % 2**31)


def step_added_to_direction(address, blocks):
    seed, step, direction, *rest = address
    return draw_blocks((seed, 0, (step + direction) % 2**32, *rest), blocks)


FAULTS = (lost_half_of_the_seed, lost_the_part, signed_direction, short_block, step_added_to_direction)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_what_an_address_loses_is_found(fault):
    some = (address for address in edges() if address[3] == 0 and address[0] in (0, 2**32))
    assert count_collisions(fault, some, edge_blocks())[1] > 0


def test_random_addresses_are_addresses():
    addresses = list(anywhere(SEED, 50))
    assert len(set(addresses)) == 50
    assert max(address[0] for address in addresses) > 2**63
    assert max(address[1] for address in addresses) < 2**32
    assert {address[4] for address in addresses} == {0, 1, 2}
    for seed, step, direction, *_ in addresses:
        zo.Directions(seed, step, 1, first=direction)

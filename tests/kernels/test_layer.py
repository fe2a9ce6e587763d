"""What both perturbed layers decide in the same way."""

from zo_triton.directions import Directions
from zo_triton.kernels.layer import default_bits


def test_default_bits_are_staged_only_where_many_tiles_share_signs():
    signs = Directions(0, 0, 1)
    assert default_bits(signs, False, 128) == "inline"
    assert default_bits(signs, False, 129) == "staged"
    assert default_bits(signs, True, 4096) == "inline"
    assert default_bits(Directions(0, 0, 1, "gaussian"), False, 4096) == "inline"

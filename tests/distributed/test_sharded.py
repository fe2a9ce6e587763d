"""Models that torch has sharded: refused with the remedy, before anything is drawn."""

import pytest
import torch
import torch.distributed as dist

import zo_triton as zo

MESSAGE = r"is a DTensor, of which each process holds a part \(fully_shard.*pass the unsharded model.*ranks="


@pytest.fixture
def model():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    model = torch.nn.Linear(3, 2)
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    yield model
    dist.destroy_process_group()


def test_sharded_parameters_are_refused(model):
    directions = zo.Directions(0, 0, 2)

    def closure():
        return model(torch.ones(4, 3)).sum()

    attempts = (
        lambda: zo.ZOSGD(model.parameters(), lr=0.1),
        lambda: zo.FusedTrainer(model, torch.optim.Adam(model.parameters())),
        lambda: zo.estimate_gradient(closure, model.parameters(), directions, 1e-3),
        lambda: zo.differences(closure, model.parameters(), directions, 1e-3),
    )
    for attempt in attempts:
        with pytest.raises(TypeError, match=MESSAGE):
            attempt()

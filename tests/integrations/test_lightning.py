"""A ZOSGD in Lightning's manual optimization: Lightning counts its steps, and its checkpoints let them go on."""

from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zo_triton as zo

pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    # Lightning's own loops still ask torch's trees so.
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated"),
]

EPOCHS, BATCHES = 4, 4


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def lightning(request):
    """The library, by each of the names that it is installed under."""
    pytest.importorskip(request.param.partition(".")[0])
    return import_module(request.param)


@pytest.fixture
def data():
    """Four batches of samples whose class is the largest of their first entries."""
    x = torch.randn(64 * BATCHES, 20, generator=torch.Generator().manual_seed(0))
    samples = torch.utils.data.TensorDataset(x, x[:, :4].argmax(1))
    return torch.utils.data.DataLoader(samples, batch_size=64)


@pytest.fixture
def new_classifier(lightning):
    """Makes the same module each time; it keeps its losses."""

    class Classifier(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 4))
            self.losses = []

        def loss(self, batch):
            inputs, labels = batch
            return F.cross_entropy(self.network(inputs), labels)

        def training_step(self, batch, _):
            self.losses.append(self.optimizers().step(lambda: self.loss(batch)))

        def configure_optimizers(self):
            return zo.ZOSGD(self.parameters(), lr=0.2, directions=16, momentum=0.5)

    return Classifier


@pytest.fixture
def trainer_of(lightning, tmp_path):
    """Makes a trainer of so many epochs, with checkpoints and nothing to read."""

    def make(epochs):
        return lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip

    return make


def test_its_steps_are_those_of_a_loop_and_are_counted(new_classifier, trainer_of, data):
    model, twin, trainer = new_classifier(), new_classifier(), trainer_of(EPOCHS)
    trainer.fit(model, data)
    opt = twin.configure_optimizers()
    losses = [opt.step(lambda batch=batch: twin.loss(batch)) for _ in range(EPOCHS) for batch in data]
    assert model.losses == losses
    assert losses[-1] < 0.7 * losses[0]
    assert trainer.global_step == EPOCHS * BATCHES


def test_it_goes_on_from_a_checkpoint_with_the_directions_that_would_have_come(
    new_classifier, trainer_of, data
):
    straight, first, second = (new_classifier() for _ in range(3))
    trainer_of(EPOCHS).fit(straight, data)
    stopped = trainer_of(EPOCHS // 2)
    stopped.fit(first, data)
    trainer_of(EPOCHS).fit(second, data, ckpt_path=stopped.checkpoint_callback.best_model_path)
    assert first.losses + second.losses == straight.losses
    for name, tensor in second.state_dict().items():
        assert torch.equal(tensor, straight.state_dict()[name])

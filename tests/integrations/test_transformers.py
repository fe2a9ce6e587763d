"""ZOTrainer against ZOSGD by hand, and against what transformers' own Trainer makes of the same arguments."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, default_data_collator

import zo_triton as zo
from zo_triton.integrations.transformers import ZOTrainer


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


class Recording(ZOTrainer):
    """Keeps what a step is made of: the batches, and how many labels Trainer has counted in them."""

    def get_batch_samples(self, *args, **kwargs):
        self.steps = [*getattr(self, "steps", ()), super().get_batch_samples(*args, **kwargs)]
        return self.steps[-1]


def as_groups(model, decay):
    """The parameter groups that Trainer makes: what decays, then biases and norms."""
    bare = {
        name
        for name, _ in model.named_parameters()
        if name.endswith("bias") or ".ln_" in name
    }  # fmt: skip
    named = dict(model.named_parameters())
    return [
        {"params": [param for name, param in named.items() if name not in bare], "weight_decay": decay},
        {"params": [param for name, param in named.items() if name in bare], "weight_decay": 0.0},
    ]


@pytest.mark.parametrize("accumulation", [1, 2], ids=["batch-a-step", "two-batches-a-step"])
def test_steps_are_those_of_a_zosgd_bit_for_bit(new_gpt2, examples, arguments, accumulation):
    """Ten examples are three batches an epoch, so that every other step of the second case has one batch."""
    model, twin = new_gpt2(), new_gpt2()
    args = arguments(
        gradient_accumulation_steps=accumulation, weight_decay=0.1, warmup_steps=2, seed=11, max_steps=4
    )
    settings = {"directions": 6, "eps": 1e-3, "sides": 2, "momentum": 0.5, "strict": True}
    trainer = Recording(model=model, args=args, train_dataset=examples, **settings)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    opt = zo.ZOSGD(as_groups(twin, 0.1), lr=1.0, seed=11, **settings)
    for (batches, items), entry in zip(trainer.steps, logs, strict=True):
        for group in opt.param_groups:
            group["lr"] = entry["learning_rate"]

        def loss(batches=batches, items=items):
            return torch.stack([twin(**batch, num_items_in_batch=items).loss for batch in batches]).sum()

        assert entry["loss"] == opt.step(loss)
    assert [entry["learning_rate"] for entry in logs] == [0.0, 0.005, 0.01, 0.005]
    for name, param in model.named_parameters():
        assert torch.equal(param, twin.get_parameter(name)), name


def test_an_accumulation_is_one_step_on_all_its_batches(new_gpt2, examples, arguments):
    """Each of the batches has another number of labels that count."""
    whole, parts = new_gpt2(), new_gpt2()
    settings = {"directions": 8, "eps": 1e-3}
    for model, size, accumulation in ((whole, 10, 1), (parts, 2, 5)):
        args = arguments(per_device_train_batch_size=size, gradient_accumulation_steps=accumulation)
        ZOTrainer(model=model, args=args, train_dataset=examples, **settings).train()
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    moved = max(
        (one - before).abs().max()
        for one, before in zip(whole.parameters(), new_gpt2().parameters(), strict=True)
    )
    assert moved > 1e-2


class Regression(nn.Module):
    """Counts nothing: its loss is the mean over a batch."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 1)

    def forward(self, x, labels):
        return {"loss": (self.line(x).squeeze(1) - labels).square().mean()}


def test_mean_losses_are_averaged_over_an_accumulation(arguments):
    data = [{"x": torch.full((3,), float(i)), "labels": float(i % 3)} for i in range(6)]
    args = arguments(per_device_train_batch_size=2, gradient_accumulation_steps=3, max_steps=1)
    model = Regression()
    with torch.no_grad():
        expected = np.mean([model(**default_data_collator([each]))["loss"].item() for each in data])
    trainer = ZOTrainer(model=model, args=args, train_dataset=data, directions=4)
    trainer.train()
    assert losses(trainer) == [pytest.approx(expected, rel=1e-6)]


def halved(outputs, labels, num_items_in_batch=None):
    return outputs["logits"].square().sum() / num_items_in_batch


class OwnLoss:
    """A subclass's own loss, whichever the Trainer."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        loss = loss + 0.5
        return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize(
    ("changes", "keywords", "mixin"),
    [
        pytest.param({"label_smoothing_factor": 0.2}, {}, object, id="label-smoothing"),
        pytest.param({}, {"compute_loss_func": halved}, object, id="compute-loss-func"),
        pytest.param({"gradient_accumulation_steps": 2}, {}, OwnLoss, id="compute-loss-of-a-subclass"),
        pytest.param({"bf16": True}, {}, object, id="autocast"),
        pytest.param({"activation_checkpointing": True}, {}, object, id="checkpointing"),
        pytest.param({"neftune_noise_alpha": 3.0}, {}, object, id="noisy-embeddings"),
    ],
)
def test_the_first_loss_is_trainers_own(new_gpt2, examples, arguments, changes, keywords, mixin):
    first = []
    for kind, settings in ((Trainer, {}), (ZOTrainer, {"directions": 8, "chunk": 3})):
        trainer = type(kind.__name__, (mixin, kind) if mixin is not object else (kind,), {})(
            model=new_gpt2(0.1),
            args=arguments(max_steps=1, **changes),
            train_dataset=examples,
            **keywords,
            **settings,
        )
        trainer.train()
        first += losses(trainer)
    slack = 5e-3 if "bf16" in changes else 1e-6
    assert first[0] == pytest.approx(first[1], rel=slack)


def test_a_compiled_model_is_evaluated_compiled_and_trained_as_it_is(new_gpt2, examples, arguments):
    found = []
    for changes in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        trainer = ZOTrainer(model=new_gpt2(), args=arguments(**changes), train_dataset=examples, directions=4)
        trainer.train()
        found.append(losses(trainer))
    assert found[0] == found[1]
    assert hasattr(trainer.model_wrapped, "_orig_mod")


def slopes(trainer):
    """Of the last step, one a direction."""
    return trainer.optimizer.optimizer.last.projected


def test_differences_under_autocast_are_those_of_float32(new_gpt2, examples, arguments):
    found = {}
    for bf16 in (False, True):
        args = arguments(bf16=bf16, max_steps=1)
        trainer = ZOTrainer(model=new_gpt2(), args=args, train_dataset=examples, directions=32, strict=True)
        trainer.train()
        found[bf16] = slopes(trainer)
    error = (found[True] - found[False]).norm() / found[False].norm()
    assert 0 < error < 0.03


def test_bfloat16_weights_keep_small_updates(new_gpt2, examples, arguments):
    model = new_gpt2().bfloat16()
    trainer = ZOTrainer(model=model, args=arguments(learning_rate=1e-6), train_dataset=examples, directions=4)
    trainer.train()
    assert {param.dtype for param in model.parameters()} == {torch.bfloat16}
    masters = [state["master"] for state in trainer.optimizer.state.values()]
    assert all(master.dtype == torch.float32 for master in masters)
    assert any((master != master.bfloat16()).any() for master in masters)


def test_evaluation_metrics_callbacks_and_the_best_checkpoint(new_gpt2, examples, arguments, tmp_path):
    called = []

    class Tell(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **others):
            called.append(("before", model.transformer.wte.weight.clone()))

        def on_optimizer_step(self, args, state, control, model=None, **others):
            called.append(("after", model.transformer.wte.weight.clone()))

    args = arguments(
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, load_best_model_at_end=True,
        metric_for_best_model="accuracy", greater_is_better=True,
    )  # fmt: skip
    trainer = ZOTrainer(
        model=new_gpt2(), args=args, train_dataset=examples, eval_dataset=examples[:3], directions=4,
        compute_metrics=lambda found: {"accuracy": float((found[0].argmax(-1) == found[1]).mean())},
        callbacks=[Tell(), EarlyStoppingCallback(5)],
    )  # fmt: skip
    result = trainer.train()
    assert [kind for kind, _ in called] == ["before", "after"] * 3
    assert all(not torch.equal(called[step][1], called[step + 1][1]) for step in (0, 2, 4))
    evaluated = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(evaluated) == 3
    assert all(0 <= entry["eval_accuracy"] <= 1 for entry in evaluated)
    assert trainer.state.best_model_checkpoint.startswith(str(tmp_path))
    assert trainer.evaluate()["eval_accuracy"] == trainer.state.best_metric
    assert result.metrics["train_loss"] == pytest.approx(np.mean(losses(trainer)), rel=1e-6)


def test_event_files_of_tensorboard_hold_loss_and_learning_rate(
    new_gpt2, examples, arguments, tmp_path, monkeypatch
):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    args = arguments(report_to="tensorboard", max_steps=3)
    trainer = ZOTrainer(model=new_gpt2(), args=args, train_dataset=examples, directions=4)
    trainer.train()
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    for name in ("loss", "learning_rate"):
        written = [(event.step, event.value) for event in events.Scalars(f"train/{name}")]
        logged = [(entry["step"], entry[name]) for entry in trainer.state.log_history if name in entry]
        assert [step for step, _ in written] == [1, 2, 3]
        assert written == [(step, pytest.approx(value, rel=1e-6)) for step, value in logged]
    assert "train/grad_norm" not in events.Tags()["scalars"]


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # PEFT still asks
def test_adapters_train_and_the_model_under_them_stays(new_gpt2, examples, arguments, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    under = {name: value.clone() for name, value in new_gpt2().state_dict().items()}
    model = get_peft_model(new_gpt2(), LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    args = arguments(save_strategy="steps", save_steps=3)
    trainer = ZOTrainer(model=model, args=args, train_dataset=examples, directions=4, strict=True)
    trainer.train()
    adapters = [param for name, param in model.named_parameters() if "lora_" in name]
    assert sum(param.numel() for group in trainer.optimizer.param_groups for param in group["params"]) == sum(
        param.numel() for param in adapters
    )
    assert all(param.abs().sum() > 0 for param in adapters)
    for name, value in model.get_base_model().state_dict().items():
        if "lora_" not in name:
            assert torch.equal(value, under[name.replace(".base_layer", "")]), name
    loaded = PeftModel.from_pretrained(new_gpt2(), tmp_path / "checkpoint-3")
    tokens = examples[0]["input_ids"][None]
    assert torch.equal(loaded(tokens).logits, model.eval()(tokens).logits)


def test_only_biases(new_gpt2, examples, arguments):
    """None of them decays, so Trainer's first group is empty."""
    model = new_gpt2()
    for name, param in model.named_parameters():
        param.requires_grad_(name.endswith("bias"))
    before = model.transformer.wte.weight.clone()
    ZOTrainer(model=model, args=arguments(), train_dataset=examples, directions=4).train()
    assert torch.equal(model.transformer.wte.weight, before)
    assert model.transformer.h[0].mlp.c_fc.bias.abs().sum() > 0


@pytest.mark.parametrize("way", ["optimizers", "optimizer_cls_and_kwargs"])
def test_a_torch_optimizer_gets_the_estimate_as_gradient(new_gpt2, examples, arguments, way):
    model, twin = new_gpt2(), new_gpt2()
    model.transformer.wpe.weight.requires_grad_(False)
    given = {
        "optimizers": {"optimizers": (torch.optim.SGD(model.parameters(), lr=0.1), None)},
        "optimizer_cls_and_kwargs": {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.1})},
    }[way]
    args = arguments(max_grad_norm=0.5, lr_scheduler_type="constant", seed=5)
    trainer = Recording(model=model, args=args, train_dataset=examples, directions=4, eps=1e-3, **given)
    trainer.train()
    groups = (
        as_groups(twin, 0.0) if way == "optimizer_cls_and_kwargs" else [{"params": list(twin.parameters())}]
    )
    params = [
        param for group in groups for param in group["params"] if param is not twin.transformer.wpe.weight
    ]
    sgd = torch.optim.SGD(params, lr=0.1)
    for step, ([batch], items) in enumerate(trainer.steps):
        directions = zo.Directions(5, step, 4)
        zo.estimate_gradient(lambda: twin(**batch, num_items_in_batch=items).loss, params, directions, 1e-3)  # noqa: B023
        norm = torch.nn.utils.clip_grad_norm_(params, 0.5)
        assert trainer.state.log_history[step]["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
        sgd.step()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_zosgd_of_ones_own_keeps_its_settings(new_gpt2, examples, arguments):
    model = new_gpt2()
    opt = zo.ZOSGD(model.parameters(), lr=0.05, directions=3, aggregator="normalized", seed=8)
    trainer = ZOTrainer(model=model, args=arguments(), train_dataset=examples, optimizers=(opt, None))
    trainer.train()
    assert (opt.steps_done, opt.last.directions.num, opt.last.directions.seed) == (3, 3, 8)
    assert trainer.state.log_history[0]["learning_rate"] == 0.05


def test_a_loss_that_is_not_finite_ends_the_run_and_moves_nothing(new_gpt2, examples, arguments):
    model = new_gpt2()
    before = [param.clone() for param in model.parameters()]
    args = arguments(label_smoothing_factor=0.0)

    def infinite(outputs, labels, num_items_in_batch=None):
        return outputs["logits"].sum() * torch.inf

    trainer = ZOTrainer(
        model=model, args=args, train_dataset=examples, directions=4, compute_loss_func=infinite
    )
    with pytest.raises(zo.NonFiniteLossError, match="the step is refused"):
        trainer.train()
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))


def test_an_accumulation_broken_off_leaves_nothing_to_the_next(new_gpt2, examples, arguments):
    class Stop(TrainerCallback):
        def on_substep_end(self, args, state, control, **others):
            control.should_training_stop = not state.log_history

    args = arguments(gradient_accumulation_steps=2)
    trainer = ZOTrainer(model=new_gpt2(), args=args, train_dataset=examples, directions=4, callbacks=[Stop()])
    trainer.train()
    assert trainer.state.global_step == 0
    trainer.remove_callback(Stop)
    trainer.train()
    fresh = ZOTrainer(model=new_gpt2(), args=args, train_dataset=examples, directions=4)
    fresh.train()
    assert losses(trainer) == losses(fresh)


def test_operations_are_counted_for_forward_passes(new_gpt2, examples, arguments):
    batch = default_data_collator(examples)
    model = new_gpt2()
    usual = Trainer(model=model, args=arguments()).floating_point_ops(batch)
    ours = ZOTrainer(model=model, args=arguments(), directions=4, sides=2).floating_point_ops(batch)
    assert ours == usual // 3 * 17

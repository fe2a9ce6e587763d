"""What a ZOTrainer refuses, before anything has started."""

import importlib
import sys

import pytest
import torch

import zo_triton as zo
from zo_triton.integrations.transformers import ZOTrainer


def change(args, name, value):
    """Sets what can't be had on this machine otherwise."""
    vars(args)[name] = value
    return args


@pytest.mark.parametrize(
    ("changes", "keywords", "message"),
    [
        pytest.param({"fp16": True}, {}, "fp16=True scales the loss", id="fp16"),
        pytest.param({"deepspeed": "config.json"}, {}, "deepspeed shards parameters", id="deepspeed"),
        pytest.param({"fsdp": "full_shard"}, {}, "fsdp shards parameters", id="fsdp"),
        pytest.param({"_n_gpu": 2}, {}, "NOT_DISTRIBUTED copies the model", id="data-parallel"),
        pytest.param({"optim": "sgd"}, {}, "optim='sgd' would have no effect", id="optim"),
        pytest.param({"max_grad_norm": 0.3}, {}, "max_grad_norm=0.3 would have no effect", id="clipping"),
        pytest.param({"adam_beta1": 0.8}, {}, "adam_beta1=0.8 would have no effect", id="beta1"),
        pytest.param({"adam_beta2": 0.9}, {}, "adam_beta2=0.9 would have no effect", id="beta2"),
        pytest.param({"adam_epsilon": 0.1}, {}, "adam_epsilon=0.1 would have no effect", id="adam-eps"),
        pytest.param({"optim_args": "a=1"}, {}, "optim_args='a=1' would have no effect", id="optim-args"),
        pytest.param(
            {"optim_target_modules": ["h"]}, {}, "optim_target_modules=.* would have no effect", id="modules"
        ),
        pytest.param({}, {"eps": -1.0}, "eps must be", id="eps"),
        pytest.param({}, {"directions": 0}, "directions must be at least 1", id="directions"),
        pytest.param({}, {"aggregator": "mean"}, "unknown aggregator", id="aggregator"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(new_gpt2, examples, arguments, changes, keywords, message):
    args = arguments()
    for name, value in changes.items():
        change(args, name, value)
    with pytest.raises(ValueError, match=message):
        ZOTrainer(model=new_gpt2(), args=args, train_dataset=examples, **keywords)


@pytest.mark.parametrize(
    ("kind", "keywords", "message"),
    [
        pytest.param(
            zo.ZOSGD,
            {"directions": 4, "eps": 1e-3},
            "directions, eps would have no effect: a ZOSGD",
            id="zosgd",
        ),
        pytest.param(torch.optim.Adam, {"momentum": 0.9}, "momentum would have no effect: a Adam", id="adam"),
    ],
)
def test_settings_that_a_given_optimizer_would_not_see_are_refused(
    new_gpt2, arguments, kind, keywords, message
):
    model = new_gpt2()
    optimizers = (kind(model.parameters(), lr=0.1), None)
    with pytest.raises(ValueError, match=message):
        ZOTrainer(model=model, args=arguments(), optimizers=optimizers, **keywords)


def test_accelerates_environment_is_looked_at(new_gpt2, arguments, monkeypatch):
    args = arguments()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="ACCELERATE_USE_FSDP unset"):
        ZOTrainer(model=new_gpt2(), args=args)


def test_without_transformers_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, ZOTrainer.__module__)
    with pytest.raises(ImportError, match=r"pip install 'zo_triton\[transformers\]'"):
        importlib.import_module(ZOTrainer.__module__)

"""How models of Hugging Face's transformers are made: from a small configuration, with random weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from benchmarks.compatibility.model import Loss, Model, called, distance


def of_type(model_type: str, head: str, inputs: dict[str, Any], name: str = "", **config: Any) -> Model:
    """A model of an automatic class, with the loss that it computes itself or the distance of its first output.

    Args:
        model_type: As configurations name it: ``"gpt2"``.
        head: Of the automatic class: ``"CausalLM"`` for ``AutoModelForCausalLM``, ``""`` for ``AutoModel``.
        inputs: Its keyword arguments.
        name: Of the row; the type's if there is none.
        config: What is unlike the type's default.
    """

    def build() -> tuple[nn.Module, Loss]:
        import transformers

        automatic = getattr(transformers, f"AutoModelFor{head}" if head else "AutoModel")
        module = automatic.from_config(transformers.AutoConfig.for_model(model_type, **config))
        return module, lambda module: _loss(called(module, inputs))

    return Model(name or model_type, build)


def of_class(class_name: str, inputs: dict[str, Any], name: str = "", **config: Any) -> Model:
    """The same for a class of transformers that no automatic class makes."""

    def build() -> tuple[nn.Module, Loss]:
        import transformers

        made = getattr(transformers, class_name)
        return made(made.config_class(**config)), lambda module: _loss(called(module, inputs))

    return Model(name or class_name, build)


def _loss(output: Any) -> Tensor:
    loss = getattr(output, "loss", None)
    return distance(output[0]) if loss is None else loss

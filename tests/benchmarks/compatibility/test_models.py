"""Models of other people's packages: a strict step, the right differences. The nightly run tries all of them."""

import importlib.util
import os

import pytest

pytest.importorskip("transformers", reason="the models are transformers'")

from benchmarks.compatibility.check import ANNOUNCED, KEPT, REFUSED, ROUNDED, STRICT, outcome
from benchmarks.compatibility.models import kinds

NIGHTLY = os.environ.get("ZO_TRITON_NIGHTLY") == "1"
MODELS = {model.name: model for kind in kinds() for model in kind.models}

OFTEN = [
    "gpt2", "opt", "llama", "mixtral", "gemma3_text", "falcon", "deepseek_v2", "mamba", "llama4_text", "bert",
    "deberta-v2", "fnet", "funnel", "reformer", "t5", "bart", "switch_transformers", "vit", "swin", "convnext",
    "clip", "videomae", "wav2vec2", "whisper", "time_series_transformer",
]  # fmt: skip
ADAPTERS = ["PEFT LoRA on gpt2", "PEFT DoRA on llama", "PEFT BOFT on llama", "PEFT prefix tuning on gpt2"]
EXCEPTIONS = {
    "gpt_oss": KEPT,
    "granitemoe": KEPT,
    "apertus": KEPT,
    "t5, bfloat16": ROUNDED,
    "PEFT SHiRA on llama": REFUSED,
    "PEFT CPT on llama": REFUSED,
}
"""What the committed table says of the models that don't simply step."""


def test_the_registry_is_large_and_its_names_are_unique():
    if importlib.util.find_spec("peft") is None:
        pytest.skip("the adapters of PEFT are part of the count")
    assert len(MODELS) == sum(len(kind.models) for kind in kinds()) >= 200
    assert not {*OFTEN, *ADAPTERS, *EXCEPTIONS} - MODELS.keys()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(MODELS) if NIGHTLY else [*OFTEN, *ADAPTERS])
def test_a_strict_step_is_right(name):
    if name not in MODELS:
        pytest.skip("needs peft")
    came_of_it = outcome(MODELS[name])
    assert came_of_it.word == EXCEPTIONS.get(name, STRICT), came_of_it.why
    assert came_of_it.word != ANNOUNCED

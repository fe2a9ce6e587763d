"""What a race tells beside its table."""

from benchmarks.report.registry import find_section

RACE = find_section("race")


def text_of(section):
    return "\n\n".join(RACE.blocks(section, lambda figure: []))


def test_who_is_left_out_and_who_warned_is_told(samples):
    section = samples["race"]
    first, *others = section["methods"]
    told = {
        **section,
        "methods": [{**first, "warnings": ["UserWarning: `x` is coarse"]}, *others],
        "left_out": [{"name": "evosax", "label": "evosax OpenES", "why": "not installed: jax, evosax."}],
    }
    text = text_of(told)
    assert "- evosax OpenES is left out: not installed: jax, evosax." in text
    assert f"- {first['label']} warned: `UserWarning: 'x' is coarse`" in text


def test_older_records_tell_neither(samples):
    text = text_of(samples["race"])
    assert "left out" not in text
    assert "warned" not in text

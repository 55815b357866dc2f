"""A key is the hash of one text; how quickly that text is put together must not show in it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bench.engine.fingerprint import canonical, canonical_mapping, digest, shared_texts
from bench.engine.graph import Stage
from bench.runner import prepare

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES), st.dictionaries(st.text(), st.text()))
def test_a_key_is_the_hash_of_the_canonical_text(
    params: dict[str, Any], inputs: dict[str, str]
) -> None:
    """Whatever is shared: the same object twice, or its equal; and where nothing is."""
    wanted = digest(["one", params, inputs, "f"])

    def key() -> str:
        return Stage(name="one", params=params, inputs=inputs, fingerprint="f").key

    assert key() == wanted
    with shared_texts():
        assert [key(), key()] == [wanted] * 2
        assert canonical_mapping(params) == canonical(params)


def test_the_keys_of_a_shipped_suite_are_those_hashes() -> None:
    stages = prepare("digits-cut", device="cpu").plan.stages
    assert len(stages) > 100
    for key, stage in stages.items():
        keyed = stage.params if stage.keyed is None else stage.keyed
        assert key == digest([stage.name, dict(keyed), stage.inputs, stage.fingerprint])

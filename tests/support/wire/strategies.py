"""Hypothesis strategies for messages and for damage to them."""

from __future__ import annotations

import numpy as np
from distributed.protocol import to_serialize
from distributed.protocol.serialize import ToPickle
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from support.wire.messages import compute_task
from support.wire.mutations import Damage


def same_each_time(examples: int) -> settings:
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


keys = st.recursive(
    st.text(max_size=70) | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=5) | st.floats(),
    lambda inner: st.tuples(inner) | st.tuples(inner, inner) | st.tuples(inner, inner, inner),
    max_leaves=5,
)
plain = st.recursive(
    st.none() | st.booleans() | keys | st.text() | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(keys, inner)
        | st.dictionaries(st.sampled_from(["key", "op", "__Pickled__x", "__Set"]), inner)
    ),
    max_leaves=20,
)
arrays = st.integers(0, 3_000).map(lambda n: np.arange(n) % 7)
values = st.recursive(
    plain
    | st.builds(ToPickle, plain | arrays | st.lists(arrays, max_size=3))
    | st.builds(to_serialize, plain | arrays | st.lists(arrays, max_size=3))
    | st.sets(st.integers() | st.text(max_size=3), max_size=4).filter(
        lambda s: all(isinstance(x, str) or -(2**63) <= x < 2**64 for x in s)
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "key": keys,
        "run_id": st.integers(0, 2**40) | plain,
        "priority": st.tuples(st.integers(-9, 9), st.floats(), st.integers(0, 2**40)) | plain,
        "who_has": st.dictionaries(keys, st.lists(st.text(max_size=9), max_size=3)) | plain,
        "nbytes": st.dictionaries(keys, st.integers(0, 2**40)) | plain,
        "run_spec": values,
        "annotations": st.dictionaries(st.text(max_size=9), values),
        "resource_restrictions": st.dictionaries(st.text(max_size=9), st.floats()) | st.none(),
        "span_id": st.text(max_size=70) | st.none(),
        "actor": st.booleans() | plain,
        "more": values,
    },
)
messages = st.one_of(
    fields.map(lambda changed: compute_task(**changed)),
    st.fixed_dictionaries({"op": st.text(max_size=12)}, optional={"a": values, "b": values}),
    st.fixed_dictionaries(
        {"op": st.just("free-keys")},
        optional={"keys": st.lists(keys) | plain, "stimulus_id": st.text() | plain},
    ),
    values,
)


damages = st.builds(
    Damage,
    kind=st.integers(0, 10),
    frame=st.integers(0, 15),
    at=st.integers(0, 5_000),
    length=st.integers(0, 40),
    byte=st.integers(0, 255),
)

"""Specs as users send them: what is unknown is said with the nearest name, what cannot be is said with its bounds."""

import pytest

pytest.importorskip("sqlalchemy")

from leptonai.base.errors import InvalidInput
from leptonai.cloud.resources.registry import KINDS
from leptonai.cloud.resources.shapes import GIB, shape_named, shapes


def test_a_spec_that_is_read_says_how_many_replicas_are_wanted():
    spec = KINDS["endpoint"].read_spec({"resource_requirement": {"min_replicas": 2, "max_replicas": 4}})
    assert spec.replicas == (2, 4)
    assert KINDS["endpoint"].read_spec({}).replicas == (1, 1)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_s40_an_unknown_field_is_refused_by_every_kind(kind):
    for field in ("is_admin", "role", "workspace_id", "credits", "price"):
        with pytest.raises(InvalidInput):
            KINDS[kind].read_spec({field: 1})


def test_the_nearest_field_is_named():
    with pytest.raises(InvalidInput, match="min_replicas"):
        KINDS["endpoint"].read_spec({"resource_requirement": {"min_replica": 1}})


@pytest.mark.parametrize(
    "spec",
    [
        {"resource_requirement": {"min_replicas": -1}},
        {"resource_requirement": {"min_replicas": 3, "max_replicas": 2}},
        {"resource_requirement": {"min_replicas": 10**9}},
        {"resource_requirement": {"min_replicas": "two"}},
        {"auto_scaler": {"scale_down": {"no_traffic_timeout": 5}}},
        {"ingress_timeout_seconds": 10**6},
        {"container": {"command": "not a list"}},
    ],
)
def test_an_endpoint_that_cannot_be_is_refused(spec):
    with pytest.raises(InvalidInput):
        KINDS["endpoint"].read_spec(spec)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"container": {"command": ["true"]}, "completions": 0},
        {"container": {"command": ["true"]}, "completions": 10**6},
    ],
)
def test_a_job_that_cannot_be_is_refused(spec):
    with pytest.raises(InvalidInput):
        KINDS["job"].read_spec(spec)


def test_shapes_fit_into_the_machine():
    offered = shapes(8, 32 * GIB)
    assert all(shape.cpu <= 8 and shape.memory_bytes <= 32 * GIB for shape in offered.values())
    assert shape_named(None, offered) == shape_named("cpu.small", offered)
    with pytest.raises(InvalidInput, match="cpu"):
        shape_named("cpu.smal", offered)

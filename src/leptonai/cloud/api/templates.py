"""Templates: specs with a blank for the command. Public ones come with the plane, private ones are a workspace's own."""

from __future__ import annotations

import builtins
import copy
from typing import Any

from ...base.errors import InvalidInput, NotFound, did_you_mean
from ..resources.registry import KINDS
from ..store import Resource
from .call import Answer, Call
from .merge import merge
from .metadata import metadata, own_spec, read_metadata

RUN = "{{run}}"
"""Replaced by the caller's `run`, as one text: nothing in it is evaluated."""
_RUN_SCHEMA = {
    "type": "object",
    "required": ["run"],
    "properties": {"run": {"type": "string", "description": "the command"}},
}
_TORCHRUN = (
    "torchrun --nnodes=${LEPTON_JOB_TOTAL_WORKERS:-1} --node-rank=${LEPTON_JOB_WORKER_INDEX:-0} "
    "--master-addr=${MASTER_ADDR:-127.0.0.1} --master-port=${MASTER_PORT:-29500} "
)
PUBLIC: dict[str, dict[str, Any]] = {
    "torchrun": {
        "workload_type": "job",
        "json_schema": _RUN_SCHEMA,
        "content": {"spec": {"container": {"image": "host", "command": ["/bin/bash", "-c", _TORCHRUN + RUN]}}},
    },
    "mpi": {
        "workload_type": "job",
        "json_schema": _RUN_SCHEMA,
        "content": {"spec": {"container": {"image": "host", "command": ["/bin/bash", "-c", "mpirun " + RUN]}}},
    },
    "lepton-train": {
        "workload_type": "job",
        "json_schema": _RUN_SCHEMA,
        "content": {"spec": {"container": {"image": "host", "command": ["/bin/bash", "-c", "lep train " + RUN]}}},
    },
    "lepton-serve": {
        "workload_type": "deployment",
        "json_schema": _RUN_SCHEMA,
        "content": {
            "spec": {
                "container": {
                    "image": "host",
                    "command": ["/bin/bash", "-c", f"lep serve {RUN} --host 127.0.0.1 --port $PORT"],
                }
            }
        },
    },
    # What `lep finetune create` asks for: its options are made from this schema.
    "nemo-automodel": {
        "workload_type": "job",
        "json_schema": {
            "type": "object",
            "required": ["model_id"],
            "properties": {
                "model_id": {"type": "string", "description": "the model to start from"},
                "dataset_id": {"type": "string", "description": "the data to learn from"},
                "learning_rate": {"type": "number", "description": "of the optimiser"},
                "num_epochs": {"type": "integer", "description": "passes over the data"},
                "batch_size": {"type": "integer", "description": "rows of one step"},
                "lora": {"type": "boolean", "description": "learn low-rank adapters only"},
            },
        },
        "content": {"spec": {"container": {}}},
    },
}


def list(call: Call) -> builtins.list[dict[str, Any]]:
    if _namespace(call) == "public":
        return [_public(name) for name in PUBLIC]
    return [_private(one) for one in call.tx.list("template", call.workspace, limit=1000)]


def get(call: Call) -> dict[str, Any]:
    if _namespace(call) == "private":
        return _private(call.tx.get("template", call.workspace, call.path["name"]))
    if call.path["name"] not in PUBLIC:
        raise NotFound(
            f"there is no public template {call.path['name']!r}", fix=did_you_mean(call.path["name"], PUBLIC)
        )
    return _public(call.path["name"])


def create(call: Call) -> Answer:
    about, spec = call.object()
    name = about.get("id") or about.get("name")
    if not isinstance(name, str) or not 1 <= len(name) <= 100 or not name.replace("-", "").replace("_", "").isalnum():
        raise InvalidInput("this cannot be the name of a template", received=name, expected="letters, digits, '-', '_'")
    labels, _ = read_metadata(about)
    spec = merge({}, spec)
    KINDS["template"].read_spec(spec)
    return Answer(_private(call.tx.create("template", call.workspace, name, spec, labels)), 201)


def delete(call: Call) -> Answer:
    call.tx.purge(call.tx.mark_deleted(call.tx.get("template", call.workspace, call.path["name"], lock=True)))
    return Answer({})


def render(call: Call) -> dict[str, Any]:
    """The template's job or deployment with its blanks filled from the body."""
    template = get(call)
    values = call.json(dict)
    schema = template["spec"].get("json_schema") or {}
    known = schema.get("properties") or {} if isinstance(schema, dict) else {}
    for key in values:
        if key not in known:
            raise InvalidInput("this template has no such blank", received=key, fix=did_you_mean(key, known))
    for key in schema.get("required") or [] if isinstance(schema, dict) else []:
        if key not in values:
            raise InvalidInput(f"this template needs {key!r}")
    content = _fill(
        copy.deepcopy(template["spec"].get("content") or {}), {key: str(value) for key, value in values.items()}
    )
    name = f"{call.path['name']}-job" if template["spec"].get("workload_type") == "job" else call.path["name"]
    return {"metadata": {"id": name, "name": name}, **(content if isinstance(content, dict) else {})}


def _fill(value: Any, values: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _fill(item, values) for key, item in value.items()}
    if isinstance(value, builtins.list):
        return [_fill(item, values) for item in value]
    if isinstance(value, str):
        for key, text in values.items():
            if f"{{{{{key}}}}}" in value:
                # One blank only: a text that itself has braces is left alone.
                head, _, tail = value.partition(f"{{{{{key}}}}}")
                return f"{head}{text}{tail}"
    return value


def _namespace(call: Call) -> str:
    namespace = call.path.get("namespace", "private")
    if namespace not in ("public", "private"):
        raise NotFound(f"there are no {namespace!r} templates", fix="There are public and private ones.")
    return namespace


def _public(name: str) -> dict[str, Any]:
    return {"metadata": {"id": name, "name": name, "created_at": 0}, "spec": PUBLIC[name], "status": {"state": "Ready"}}


def _private(resource: Resource) -> dict[str, Any]:
    return {"metadata": metadata(resource), "spec": own_spec(resource), "status": {"state": "Ready"}}

"""Jobs and fine-tune jobs. A job's id is the user's name with a tail; `metadata.name` is what the user called it."""

from __future__ import annotations

import builtins
import re
import secrets
from dataclasses import dataclass
from typing import Any

from ...base.errors import InvalidInput
from ..accounts.quotas import check_room
from ..accounts.secrets import check_references
from ..resources.job import ENDED, JobStatus
from ..resources.registry import KINDS
from ..resources.shapes import shape_named
from ..store import Resource
from . import replicas
from .call import Answer, Call
from .merge import merge, prune
from .metadata import check_labels, check_spec_fields, check_version, metadata, own_spec, read_metadata
from .nodes import GROUP

NAME = re.compile(r"[a-z]([a-z0-9-]{0,34}[a-z0-9])?\Z")
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_CHANGEABLE = {"stopped", "queue_config", "ttl_seconds_after_finished", "time_limit_s"}
# job_query_mode → `deleted` of Transaction.list
MODES = {"alive_only": False, "archive_only": True, "alive_and_archive": None}


@dataclass(frozen=True)
class Jobs:
    kind: str
    list_key: str

    def _find(self, call: Call, *, lock: bool = False) -> Resource:
        archived = mode(call, "alive_and_archive") is not False
        return call.tx.get(self.kind, call.workspace, call.path["name"], lock=lock, deleted=archived)

    def show(self, call: Call, resource: Resource) -> dict[str, Any]:
        status: JobStatus = KINDS[self.kind].read_status(resource.status)
        state = status.state
        if resource.deleted_at is not None and state not in ENDED:
            state = "Deleting"
        times = {
            "creation_time": status.creation_time or resource.created_at,
            "completion_time": status.completion_time,
        }
        shown = {
            "job_name": resource.name,
            "state": state,
            "ready": status.ready,
            "active": status.active,
            "failed": status.failed,
            "succeeded": status.succeeded,
            "job_history": [prune({f: getattr(one, f) for f in one.__struct_fields__}) for one in status.job_history],
            "message": status.message or None,
            **times,
        }
        about = metadata(resource, name=resource.spec.get("title") or resource.name)
        return {"metadata": about, "spec": own_spec(resource), "status": prune(shown)}

    def list(self, call: Call) -> dict[str, Any]:
        """A page; the newest first. Past the last page the list is empty."""
        size = call.number("page_size", 500, most=1000, least=1)
        page = call.number("page", 1, most=1_000_000, least=1)
        groups = call.many("node_groups")
        found = []
        if not groups or GROUP in groups:
            found = call.tx.list(
                self.kind,
                call.workspace,
                limit=size,
                offset=(page - 1) * size,
                newest_first=True,
                deleted=mode(call),
                search=call.one("q"),
                labels=_selector(call.one("query")),
                states=call.many("status"),
                created_by=call.many("created_by"),
            )
        return {self.list_key: [self.show(call, one) for one in found]}

    def get(self, call: Call) -> dict[str, Any]:
        return self.show(call, self._find(call))

    def create(self, call: Call) -> Answer:
        about, spec = call.object()
        title = about.get("id") or about.get("name")
        if not isinstance(title, str) or not NAME.match(title):
            raise InvalidInput(
                "this cannot be the name of a job",
                received=title,
                expected="1 to 36 of a-z, 0-9 and '-', beginning with a letter, not ending with '-'",
            )
        labels, visibility = read_metadata(about)
        check_spec_fields(spec)
        spec = merge({}, spec)
        self._check(call, spec)
        check_room(call.tx, call.workspace, self.kind, spec, call.plane.shapes())
        spec |= prune({"title": title, "visibility": visibility})
        tail = "".join(secrets.choice(_ALPHABET) for _ in range(6))
        resource = call.tx.create(self.kind, call.workspace, f"{title}-{tail}", spec, labels)
        return Answer(self.show(call, resource), 201)

    def _check(self, call: Call, spec: dict[str, Any]) -> None:
        KINDS[self.kind].read_spec(spec)
        check_references(call.tx, call.workspace, spec.get("envs"))
        if spec.get("resource_shape"):
            shape_named(spec["resource_shape"], call.plane.shapes())
        groups = (spec.get("affinity") or {}).get("allowed_dedicated_node_groups") or [GROUP]
        if GROUP not in groups:
            raise InvalidInput("there is no such node group", received=", ".join(groups), expected=GROUP)

    def patch(self, call: Call) -> dict[str, Any]:
        about, patch = call.object()
        resource = self._find(call, lock=True)
        check_version(resource, about)
        labels, _ = read_metadata(about)
        fixed = [field for field in patch if field not in _CHANGEABLE and patch[field] != resource.spec.get(field)]
        if fixed:
            raise InvalidInput(
                f"a job's {fixed[0]} cannot be changed", fix="Clone it: `lep job clone`, with the change in the clone."
            )
        spec = merge(resource.spec, patch)
        KINDS[self.kind].read_spec(spec)
        return self.show(call, call.tx.set_spec(resource, spec, labels))

    def delete(self, call: Call) -> Answer:
        """A job that lives is stopped and moves to the archive; one in the archive is gone for good."""
        resource = self._find(call, lock=True)
        if resource.deleted_at is None:
            call.tx.mark_deleted(resource)
        elif mode(call, "alive_and_archive") is not False and resource.state in ENDED:
            call.tx.audit(call.workspace, "purge", resource.kind, resource.name)
            call.tx.purge(resource)
        return Answer({})

    def replicas(self, call: Call) -> builtins.list[dict[str, Any]]:
        return replicas.show(call, self._status(call).replicas)

    def replica_log(self, call: Call) -> Answer:
        return replicas.live_log(call, self._status(call).replicas)

    def events(self, call: Call) -> builtins.list[dict[str, Any]]:
        return replicas.events(call, self._find(call))

    def _status(self, call: Call) -> JobStatus:
        return KINDS[self.kind].read_status(self._find(call).status)


JOBS = Jobs("job", "jobs")
FINETUNES = Jobs("finetune", "finetune_jobs")


def mode(call: Call, default: str = "alive_only") -> bool | None:
    wanted = call.one("job_query_mode") or default
    if wanted not in MODES:
        raise InvalidInput("this is not a job_query_mode", received=wanted, expected=", ".join(MODES))
    return MODES[wanted]


def _selector(text: str | None) -> dict[str, str]:
    """`team=a,run=3`. The grammar is this and no more."""
    if not text:
        return {}
    pairs = [part.partition("=") for part in text.split(",")]
    if any(not equals for _, equals, _ in pairs):
        raise InvalidInput("this is not a label selector", received=text, expected="name=value,name=value")
    return check_labels({key.strip(): value.strip("= ") for key, _, value in pairs})

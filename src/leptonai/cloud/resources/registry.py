"""One line per kind: its spec and status, who makes status follow spec, where its routes are."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import Any

import msgspec

from ...base.errors import InvalidInput, NotFound, did_you_mean, nearest
from ...base.structs import prepare
from . import endpoint, job, others, raycluster


@dataclass(frozen=True)
class Kind:
    """`controller`: `module:Class` below `leptonai.cloud`, or None where the API alone keeps the status."""

    name: str
    spec: type[msgspec.Struct]
    status: type[msgspec.Struct]
    routes: tuple[str, ...]
    controller: str | None = None

    def read_spec(self, data: Any, where: str = "spec") -> Any:
        """The checked spec. Raises InvalidInput, which names the field and the nearest known one."""
        spec = convert(data, self.spec, where)
        if hasattr(spec, "check"):
            spec.check()
        return spec

    def read_status(self, data: dict[str, Any]) -> Any:
        """A status as its controller wrote it."""
        return msgspec.convert(data, self.status)

    def load_controller(self) -> type | None:
        if self.controller is None:
            return None
        module, _, name = self.controller.partition(":")
        return getattr(importlib.import_module(f"leptonai.cloud.{module}"), name)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("endpoint", endpoint.EndpointSpec, endpoint.EndpointStatus, ("deployments", "endpoints", "devpods"), "control.endpoints:EndpointController"),
        Kind("job", job.JobSpec, job.JobStatus, ("jobs",), "control.jobs:JobController"),
        Kind("finetune", job.FinetuneSpec, job.JobStatus, ("finetune/jobs",), "control.jobs:JobController"),
        Kind("secret", others.SecretSpec, others.PlainStatus, ("usersecrets", "secrets")),
        Kind("ingress", others.IngressSpec, others.IngressStatus, ("ingress",)),
        Kind("volume", others.VolumeSpec, others.PlainStatus, ("dedicated-node-groups/{group}/volumes",)),
        Kind("datasource", others.DataSourceSpec, others.PlainStatus, ("dedicated-node-groups/{group}/datasources",)),
        Kind("storage_rule", others.StorageRuleSpec, others.PlainStatus, ("storage-permission",)),
        Kind("template", others.TemplateSpec, others.PlainStatus, ("templates",)),
        Kind("raycluster", raycluster.RayClusterSpec, raycluster.RayClusterStatus, ("rayclusters",)),
        Kind("photon", others.PhotonSpec, others.PlainStatus, ("photons",)),
    )
}  # fmt: skip

prepare(*(kind.spec for kind in KINDS.values()), *(kind.status for kind in KINDS.values()))


def kind_named(name: str) -> Kind:
    if name not in KINDS:
        raise NotFound(f"there is no kind of resource {name!r}", fix=did_you_mean(name, KINDS))
    return KINDS[name]


_UNKNOWN = re.compile(r"unknown field `(?P<field>[^`]*)`(?: - at `\$(?P<path>[^`]*)`)?")


def convert(data: Any, type: Any, where: str) -> Any:
    """`data` as `type`. Raises InvalidInput with the place, and the nearest known field for one that is unknown."""
    try:
        return msgspec.convert(data, type)
    except msgspec.ValidationError as error:
        text = str(error)
        unknown = _UNKNOWN.search(text)
        if unknown:
            close = nearest(unknown["field"], _field_names(type))
            raise InvalidInput(
                f"{where}{unknown['path'] or ''} has a field that is not known",
                received=unknown["field"],
                fix=f"Did you mean {close!r}?" if close else "Remove it.",
            ) from None
        sentence, _, path = text.partition(" - at `$")
        raise InvalidInput(f"{where}{path.rstrip('`')} is not right: {sentence[:1].lower()}{sentence[1:]}") from None


def _field_names(type: Any) -> set[str]:
    """The names of all fields of a struct and of the structs in it."""
    names: set[str] = set()
    seen: set[Any] = set()
    waiting = [msgspec.inspect.type_info(type)]
    while waiting:
        info = waiting.pop()
        if isinstance(info, msgspec.inspect.StructType) and info.cls not in seen:
            seen.add(info.cls)
            names |= {field.encode_name for field in info.fields}
            waiting += [field.type for field in info.fields]
        elif isinstance(info, msgspec.inspect.UnionType):
            waiting += info.types
        elif isinstance(info, msgspec.inspect.ListType):
            waiting.append(info.item_type)
    return names

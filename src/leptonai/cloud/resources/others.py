"""The smaller kinds: secret, ingress, node group, volume, data source, storage rule, template, photon."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ...base.errors import InvalidInput
from .fields import AuthConfig, LoadBalance, Piece, Spec


class SecretSpec(Piece):
    """A secret's name and who may see it; the value is sealed in the table `secrets`."""

    owner: str
    visibility: Literal["public", "private"] = "private"
    tags: list[str] | None = None


class IngressEndpoint(Piece):
    deployment: str | None = None
    weight: int | None = None
    load_balance_config: LoadBalance | None = None


class RateLimit(Piece):
    workspace_tier_ratelimiter: dict[str, Any] | None = None


class Locality(Piece):
    region: str | None = None


class Shadowing(Piece):
    percentage: int | None = None
    endpoint: IngressEndpoint | None = None


class IngressSpec(Spec, kw_only=True):
    """A host name whose requests are split over endpoints by weight."""

    domain_name: str
    endpoints: list[IngressEndpoint] | None = None
    retelimit_config: RateLimit | None = None
    auth_config: AuthConfig | None = None
    locality: Locality | None = None
    traffic_shadowing_config: Shadowing | None = None

    def check(self) -> None:
        for endpoint in self.endpoints or []:
            if not endpoint.deployment or not 0 <= (endpoint.weight or 0) <= 10_000:
                raise InvalidInput(
                    "this cannot be an endpoint of an ingress",
                    received=msgspec.to_builtins(endpoint),
                    expected="the name of an endpoint and a weight of 0 to 10000",
                )
        names = [endpoint.deployment for endpoint in self.endpoints or []]
        if len(set(names)) < len(names):
            raise InvalidInput("an endpoint is in this ingress twice", received=", ".join(map(str, names)))
        shadow = self.traffic_shadowing_config
        if shadow and not 0 <= (shadow.percentage or 0) <= 100:
            raise InvalidInput("a percentage is out of bounds", received=shadow.percentage, expected="0 to 100")


class IngressStatus(Piece):
    state: str = "active"
    message: str = ""
    details: dict[str, Any] = {}


class VolumeSpec(Piece):
    """Storage of a node group: on this machine a folder."""

    from_: Literal["local", "remote", "nfs"] = msgspec.field(name="from")
    name: str
    size_in_gb: int = 0
    mount_options: dict[str, Any] | None = None
    creation_mode: Literal["mount", "mkdir", "none"] | None = None
    from_path: str | None = None
    default_mount_path: str | None = None
    managed_by_lepton: bool | None = None


class BucketProvider(Piece):
    type: str
    aws: dict[str, Any] | None = None
    s3: dict[str, Any] | None = None
    gcs: dict[str, Any] | None = None
    parameters: dict[str, str] | None = None


class Bucket(Piece):
    bucket: str
    provider: BucketProvider
    credentials: dict[str, Any] | None = None
    pvc: dict[str, Any] | None = None
    aistore: dict[str, Any] | None = None


class Users(Piece):
    allowed_users: list[str] | None = None


class DataSourceSpec(Piece):
    """A bucket of an object store, and who may attach it."""

    name: str
    workspace: str
    object: Bucket
    description: str | None = None
    permissions: Users | None = None


class StorageRuleSpec(Piece):
    """Who may use a path of a volume. The first rule turns "all paths" into "only these"."""

    volume: str
    path_prefix: str
    allowed_users: list[str] = []
    subfolder_policy: str = ""
    nodegroup_id: str | None = None


class TemplateSpec(Spec):
    content: Any = None
    json_schema: Any = None
    workload_type: Literal["job", "pod", "deployment"] | None = None


class PhotonSpec(Piece):
    """An uploaded photon archive of the 0.27 generation. `sha256` names its bytes in the workspace's folder."""

    name: str
    model: str
    sha256: str
    size_bytes: int
    image: str = ""
    requirement_dependency: list[str] = []
    cmd: list[str] | None = None
    openapi_schema: dict[str, Any] | None = None
    exposed_ports: list[int] | None = None


class PlainStatus(Piece):
    state: str = "Ready"
    message: str = ""
    details: dict[str, Any] = {}

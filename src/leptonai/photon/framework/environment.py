"""What a photon says it needs from its environment (`deployment_template`): checked before `init`, defaults set."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from ...base.errors import InvalidInput, did_you_mean

ENV_VAR_REQUIRED = "PLEASE_ENTER_YOUR_ENV_VARIABLE_HERE_(LEPTON_ENV_VAR_REQUIRED)"
_KEYS = ("resource_shape", "env", "secret")


def check_template(template: Any) -> dict[str, Any]:
    """The template with its three keys; raises InvalidInput for any other key or shape."""
    if not isinstance(template, Mapping):
        raise InvalidInput("deployment_template is not a dict", received=type(template).__name__)
    for key in template:
        if key not in _KEYS:
            raise InvalidInput("deployment_template has an unknown key", received=key, fix=did_you_mean(key, _KEYS))
    env, secret = template.get("env") or {}, template.get("secret") or []
    if not isinstance(env, Mapping) or not all(isinstance(one, str) for pair in env.items() for one in pair):
        raise InvalidInput("deployment_template['env'] is not a dict of texts", received=env)
    if not isinstance(secret, list) or not all(isinstance(one, str) for one in secret):
        raise InvalidInput("deployment_template['secret'] is not a list of names", received=secret)
    return {"resource_shape": template.get("resource_shape"), "env": dict(env), "secret": list(secret)}


def apply_template(template: Any) -> None:
    """Raise InvalidInput if a required variable is missing, set the others' defaults, warn about missing secrets."""
    checked = check_template(template)
    missing = [name for name, value in checked["env"].items() if value == ENV_VAR_REQUIRED and name not in os.environ]
    if missing:
        raise InvalidInput(
            f"the photon needs the environment variable {', '.join(missing)}",
            fix=f"Set it: export {missing[0]}=…, or --env {missing[0]}=…",
        )
    for name, value in checked["env"].items():
        if value != ENV_VAR_REQUIRED:
            os.environ.setdefault(name, value)
    for name in checked["secret"]:
        if name not in os.environ:
            print(f"Warning: the secret {name} is not set in the environment.", file=sys.stderr)

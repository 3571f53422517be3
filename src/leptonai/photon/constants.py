"""Names of the official module of this name."""

from .framework.environment import ENV_VAR_REQUIRED as ENV_VAR_REQUIRED

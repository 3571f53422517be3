"""Names of the official module of this name; see state/."""

from .state.kv import KV as KV

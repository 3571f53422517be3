"""The Python SDK: clients of services and of a workspace. Names are handed on when used."""


def __getattr__(name: str):
    if name in ("Client", "current", "local"):
        from . import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Lepton API v2 on plain ASGI. `routes.py` is the table: method, path, action, handler. Nothing is reachable that is not in it."""

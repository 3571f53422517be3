"""Replicas of a model in processes of their own: the wire, the process, and its side of the server."""

"""Names of the official module of this name; see photon/remote.py."""

from .photon.remote import Remote as Remote

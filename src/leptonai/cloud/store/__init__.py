"""The plane's memory: resources, events, audit, leases. One database transaction per change; nothing else holds state."""

from .model import SYSTEM, Actor, Resource
from .store import Store
from .transaction import Transaction

__all__ = ["SYSTEM", "Actor", "Resource", "Store", "Transaction"]

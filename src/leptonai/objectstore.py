"""Names of the official module of this name; see state/."""

from .state.objectstore import ObjectStore as ObjectStore
from .state.objectstore import PrivateObjectStore as PrivateObjectStore
from .state.objectstore import PublicObjectStore as PublicObjectStore

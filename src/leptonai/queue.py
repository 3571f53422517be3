"""Names of the official module of this name; see state/."""

from .state.queue import Empty as Empty
from .state.queue import Queue as Queue

"""A plane as a process, for tests that kill it: `python plane.py HOME` runs the controllers until then."""

import logging
import sys
import threading
from pathlib import Path

from tests.cloud.control.conftest import make_context

from leptonai.base.home import Home
from leptonai.cloud.control.loop import Loop, make_controllers

if __name__ == "__main__":
    logging.basicConfig()
    context = make_context(Home(Path(sys.argv[1])))
    with Loop(context, make_controllers(context, ("job", "endpoint"))) as loop:
        loop.active.wait()
        print("active", flush=True)
        threading.Event().wait()

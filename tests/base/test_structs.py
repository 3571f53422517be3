"""Types that were prepared may be used by many threads at once; without it msgspec ends the process."""

import subprocess
import sys

SCRIPT = """
import sys, threading, msgspec
from leptonai.cloud.resources import registry
sys.setswitchinterval(1e-6)
ready = threading.Barrier(8)
value = {"container": {"command": ["x"], "ports": [{"container_port": 3}]}, "envs": [{"name": "a"}], "mounts": []}
def use():
    ready.wait()
    msgspec.convert(value, registry.KINDS["job"].spec)
threads = [threading.Thread(target=use) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_first_use_by_many_threads():
    for _ in range(8):
        subprocess.run([sys.executable, "-c", SCRIPT], check=True)

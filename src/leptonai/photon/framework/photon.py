"""The class that users subclass. Owns what a photon is: its attributes, its `init` that runs once, its app.

Everything that serves, packs or loads a photon is in the files beside this one and is imported when it is used.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ... import __version__
from ...base.errors import InvalidInput
from .environment import apply_template, check_template
from .handler import handler as _handler
from .handler import handlers_of

if TYPE_CHECKING:
    from .app import App

NAME = re.compile(r"[a-z](?:[-a-z0-9]*[a-z0-9])?\Z")
MAX_NAME = 32


def check_photon_name(name: str) -> str:
    """Raises InvalidInput unless `name` can name a photon."""
    if not isinstance(name, str) or len(name) > MAX_NAME or not NAME.match(name):
        raise InvalidInput(
            "this cannot be the name of a photon",
            received=name,
            expected=f"at most {MAX_NAME} of a-z, 0-9 and '-', beginning with a letter and not ending with '-'",
        )
    return name


class _Readable:
    """A name to read that `init` may use for something else: `self.model = load()` is what people write."""

    def __init__(self, attribute: str):
        self.attribute = attribute

    def __get__(self, photon: Any, owner: type | None = None) -> Any:
        return self if photon is None else getattr(photon, self.attribute)


class Photon:
    """Subclass it, decorate methods with `@Photon.handler`, and each becomes a route. Attributes: docs/photon.md."""

    photon_type = "photon"
    requirement_dependency: ClassVar[list[str] | None] = None
    """pip requirements; base classes' come first. `"uninstall X"` takes a package away."""
    system_dependency: ClassVar[list[str] | None] = None
    deployment_template: ClassVar[dict[str, Any]] = {"resource_shape": None, "env": {}, "secret": []}
    extra_files: ClassVar[Mapping[str, str] | list[str]] = {}
    handler_max_concurrency: ClassVar[int] = 1
    handler_timeout: ClassVar[float] = 600
    """Seconds after which a handler is stopped and its client gets 504."""
    max_body_bytes: ClassVar[int] = 256 << 20
    image: ClassVar[str | None] = None
    args: ClassVar[list[str]] = ["--shm-size=1g"]
    cmd: ClassVar[list[str] | None] = None
    exposed_port: ClassVar[int] = 8080
    health_check_liveness_tcp_port: ClassVar[int | None] = None
    timeout_graceful_shutdown: ClassVar[float | None] = None
    incoming_traffic_grace_period: ClassVar[float | None] = None
    vcs_url: ClassVar[str | None] = None

    handler = staticmethod(_handler)
    name, model = _Readable("_photon_name"), _Readable("_photon_model")

    def __init__(self, name: str | None = None, model: str | None = None):
        self._photon_name = name or _name_of(type(self).__name__)
        self._photon_model = model or type(self).__name__
        self._init_lock = threading.RLock()
        self._init_called = False
        self._app: App | None = None

    def init(self) -> None:
        """Override: load what the handlers need. Runs once, before the first call."""

    def _check_made(self) -> None:
        if "_init_lock" not in vars(self):
            raise RuntimeError(
                f"{type(self).__name__}.__init__ does not call super().__init__(); put start-up work into init(self) instead"
            )

    def _call_init_once(self) -> None:
        self._check_made()
        if self._init_called:
            return
        with self._init_lock:
            if not self._init_called:
                apply_template(self._template())
                self.init()
                self._init_called = True

    @classmethod
    def _template(cls) -> dict[str, Any]:
        return check_template(cls.deployment_template)

    def add_background_task(self, function: Callable, *args: Any, **kwargs: Any) -> None:
        """Run `function` after this answer, in a thread of its own; its errors go to the log."""
        threading.Thread(target=functools.partial(_logged, function, *args, **kwargs), daemon=True).start()

    @property
    def app(self) -> App:
        """The ASGI app; made once, for use in one event loop."""
        self._check_made()
        if self._app is None:
            from .app import App

            self._app = App(self)
        return self._app

    def openapi(self) -> dict[str, Any]:
        return self.app.openapi()

    @classmethod
    def requirements(cls) -> list[str]:
        """Of this class and its bases, ancestors first, each once."""
        return _collected(cls, "requirement_dependency")

    @property
    def metadata(self) -> dict[str, Any]:
        """What the manifest of a package says. Plain data."""
        from .app import App

        self._check_made()
        cls = type(self)
        source = inspect.getsourcefile(cls)
        return {
            "name": self._photon_name,
            "model": self._photon_model,
            "type": self.photon_type,
            "image": cls.image or f"default/lepton:photon-py3.{sys.version_info.minor}-runner-{__version__}",
            "args": list(cls.args),
            "cmd": cls.cmd,
            "exposed_port": cls.exposed_port,
            "requirement_dependency": cls.requirements(),
            "system_dependency": _collected(cls, "system_dependency"),
            "deployment_template": cls._template(),
            "vcs_url": cls.vcs_url,
            "openapi_schema": App(self).openapi(),
            "py_obj": {
                "name": cls.__qualname__,
                "src_file": Path(source).name if source else None,
                "py_version": f"{sys.version_info.major}.{sys.version_info.minor}",
            },
            "lepton_version": __version__,
        }

    def save(self, path: str | Path | None = None) -> Path:
        """Write the package (`NAME.photon` in this folder unless `path` says where); see package.py."""
        from .package import write

        return write(self, Path(path or f"{self._photon_name}.photon"))

    @staticmethod
    def load(path: str | Path) -> Photon:
        """The photon of a package: its source is run, so it has to be code that you trust. Never a pickle."""
        from .package import load

        return load(Path(path))

    def launch(
        self, host: str = "127.0.0.1", port: int | None = None, log_level: str | None = None, **options: Any
    ) -> None:
        """Serve until SIGTERM or SIGINT. `port`: `exposed_port` unless given; 0 takes a free one. Raises Refused for a network
        address without LEPTON_LOCAL_DEPLOYMENT_TOKEN."""
        from .serving import launch

        launch(self, host, self.exposed_port if port is None else port, log_level=log_level, **options)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        handlers_of(cls)  # two methods on one route are said where they are written


def _collected(cls: type, attribute: str) -> list[str]:
    found: list[str] = []
    for base in reversed(cls.__mro__):
        for one in vars(base).get(attribute) or []:
            if one not in found:
                found.append(one)
    return found


def _name_of(class_name: str) -> str:
    """A class's name as a photon's: `MyCounter` → `mycounter`."""
    found = re.sub(r"[^a-z0-9-]", "-", class_name.lower()).strip("-")[:MAX_NAME].rstrip("-")
    return found if NAME.match(found) else "photon"


def _logged(function: Callable, *args: Any, **kwargs: Any) -> None:
    import traceback

    try:
        function(*args, **kwargs)
    except Exception:
        traceback.print_exc(file=sys.stderr)

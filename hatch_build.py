"""Builds the CPU kernels while the package is built or installed. Where that cannot be (no compiler, another processor) the package
is complete without them: the engine runs on torch alone, and says so.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelsHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        path = Path(self.root) / "src" / "leptonai" / "engine" / "ops" / "build.py"
        spec = importlib.util.spec_from_file_location("lepton_build", path)
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)
        try:
            library = build.build()
        except (build.CannotBuild, OSError) as error:
            self.app.display_warning(f"CPU kernels of the LLM engine left out: {error}")
            return
        if version == "standard":  # a wheel: an editable install finds the library in the source tree
            build_data["artifacts"].append(str(library.relative_to(self.root)))
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{build.wheel_platform()}"

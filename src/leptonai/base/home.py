"""Where Lepton keeps things: `LEPTON_HOME` (default `~/.lepton`), one folder per workspace. The one place that knows the layout."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .paths import check_name


@dataclass(frozen=True)
class Home:
    """A workspace's folders. Every object belongs to exactly one workspace (`LEPTON_WORKSPACE`, default `default`)."""

    root: Path
    workspace: str = "default"

    @classmethod
    def current(cls) -> Home:
        root = Path(os.environ.get("LEPTON_HOME") or Path.home() / ".lepton").expanduser().resolve()
        return cls(root, check_name(os.environ.get("LEPTON_WORKSPACE") or "default", "workspace"))

    @property
    def folder(self) -> Path:
        return self.root / "workspaces" / self.workspace

    @property
    def datasets(self) -> Path:
        return self.folder / "datasets"

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def reports(self) -> Path:
        return self.folder / "reports"

    @property
    def services(self) -> Path:
        """Request logs and feedback of served models, one folder per service."""
        return self.folder / "services"

    @property
    def cache(self) -> Path:
        """What can be made again: memory-mapped columns. Safe to delete while nothing runs."""
        return self.folder / "cache"

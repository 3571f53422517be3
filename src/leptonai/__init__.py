"""Lepton: an open AI cloud in one package. `import leptonai as la` imports nothing heavy; names are handed on when used."""

import importlib as _importlib

__version__ = "0.1.0"

_NAMES = {
    # name: module that defines it
    "Client": "client.client",
    "Photon": "photon.framework.photon",
    "KV": "state.kv",
    "Queue": "state.queue",
    "ObjectStore": "state.objectstore",
    "Remote": "photon.remote",
    "Dataset": "data.dataset",
    "import_data": "data.importing",
    "open_dataset": "data.dataset",
    "Model": "tasks.model",
    "load": "tasks.model",
    "Recipe": "train.recipe",
    "Run": "train.run",
    "fit": "train.fit",
    "train": "train",  # the folder, which can be called
    "evaluate": "evaluate",
    "LinearRegression": "tasks.estimators",
    "LogisticRegression": "tasks.estimators",
    "mean_squared_error": "tasks.metrics",
    "mean_absolute_error": "tasks.metrics",
    "r2_score": "tasks.metrics",
    "accuracy_score": "tasks.metrics",
    "LLM": "engine.llm",
    "SamplingParams": "engine.params",
    "LeptonError": "base.errors",
}

__all__ = [*_NAMES, "__version__"]


def __getattr__(name: str):
    if name in _NAMES:
        module = _importlib.import_module(f"{__name__}.{_NAMES[name]}")
        value = module if _NAMES[name] == name else getattr(module, name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'leptonai' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""Every kind of network by name, and the one way to build, export and load one.

Adding a kind: one class whose keyword arguments are its sizes (given by the task) and options (with defaults), and one line here.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..base.errors import Corrupt, InvalidInput, did_you_mean, shorten
from .learner import Learner

if TYPE_CHECKING:
    import numpy as np
    import torch

    Network = torch.nn.Module | Learner

# kind: (module in nets/, class). A module is imported when its kind is used.
KINDS: dict[str, tuple[str, str]] = {
    "mlp": ("mlp", "MLP"),
    "cnn": ("cnn", "CNN"),
    "linear": ("linear", "Linear"),
    "lightgbm": ("boosting", "Boosting"),
    "lstm": ("rnn", "LSTM"),
    "gru": ("rnn", "GRU"),
    "transformer": ("transformer", "Transformer"),
    "tfidf": ("tfidf", "Tfidf"),
    "keras": ("keras", "KerasNetwork"),
}


def network_class(kind: str) -> type:
    if kind not in KINDS:
        raise InvalidInput("there is no such kind of network", received=kind, fix=did_you_mean(str(kind), KINDS))
    module, name = KINDS[kind]
    return getattr(importlib.import_module(f".{module}", __package__), name)


def parameters(kind: str) -> dict[str, inspect.Parameter]:
    """Arguments that a kind is built from: sizes have no default, options do."""
    return {name: p for name, p in inspect.signature(network_class(kind)).parameters.items() if name != "self"}


def options(kind: str) -> dict[str, Any]:
    """What a user may set for this kind, with the defaults."""
    return {name: p.default for name, p in parameters(kind).items() if p.default is not inspect.Parameter.empty}


def check_options(kind: str, given: Mapping[str, Any]) -> None:
    """Raise InvalidInput for an option that this kind does not have."""
    known = options(kind)
    for name in given:
        if name not in known:
            raise InvalidInput(f"network {kind!r} has no such option", received=name, fix=did_you_mean(name, known))


def build(kind: str, config: Mapping[str, Any]) -> Network:
    """A new network; `.kind` and `.config` are what its manifest needs to build it again."""
    known = parameters(kind)
    for name in config:
        if name not in known:
            raise InvalidInput(f"network {kind!r} has no such option", received=name, fix=did_you_mean(name, known))
    missing = [n for n, p in known.items() if p.default is inspect.Parameter.empty and n not in config]
    if missing:
        raise InvalidInput(f"network {kind!r} needs {', '.join(missing)}", received=dict(config))
    try:
        network = network_class(kind)(**config)
    except (TypeError, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        raise InvalidInput(f"network {kind!r} cannot be built: {shorten(str(error))}", received=dict(config)) from error
    network.kind, network.config = kind, dict(config)
    return network


def is_learner(network: Any) -> bool:
    return isinstance(network, Learner)


def state_of(network: Network) -> dict[str, np.ndarray]:
    """Weights and buffers as arrays, whatever the network is."""
    if isinstance(network, Learner):
        return network.state()
    return {name: tensor.detach().cpu().numpy() for name, tensor in network.state_dict().items()}


def restore(kind: str, config: Mapping[str, Any], state: Mapping[str, np.ndarray]) -> Network:
    """The network of a model's files. It is built only if the weights have its shapes: a manifest may ask for any size."""
    import torch

    if kind != "keras" and issubclass(network_class(kind), torch.nn.Module):
        with torch.device("meta"):
            wanted = {name: tuple(tensor.shape) for name, tensor in build(kind, config).state_dict().items()}
        found = {name: tuple(array.shape) for name, array in state.items()}
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                raise Corrupt(
                    f"the weights do not fit network {kind!r}",
                    received=f"{name} of shape {found.get(name, 'none')}",
                    expected=f"shape {wanted.get(name, 'none')}",
                )
    network = build(kind, config)
    load_state(network, state)
    return network


def load_state(network: Network, state: Mapping[str, np.ndarray]) -> None:
    """Put `state` into a network built with the same config; raise Corrupt if names or shapes differ."""
    if isinstance(network, Learner):
        try:
            network.load_state(state)
        except (KeyError, ValueError, TypeError) as error:
            raise Corrupt(f"the weights do not fit network {network.kind!r}: {error}") from error
        return
    import numpy as np
    import torch

    # Writable copies: arrays read from a file may be views on its bytes.
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise Corrupt(f"the weights do not fit network {network.kind!r}: {' '.join(str(error).split())}") from error

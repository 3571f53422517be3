"""LoRA adapters that come and go while the server runs. Only from folders that the operator named."""

from __future__ import annotations

import re
import time
from pathlib import Path

from .errors import ApiError
from .models import Served
from .schema import LoadAdapterRequest


async def load(served: Served, request: LoadAdapterRequest, roots: tuple[str, ...]) -> None:
    """Load `lora_path` (within one of `roots`) under the model name `lora_name`."""
    check(served, roots)
    if not request.lora_path:
        raise ApiError(400, "lora_path is missing.", param="lora_path", code="missing_required_parameter")
    if not re.fullmatch(r"[\w][\w.:@-]{0,95}", request.lora_name):
        raise ApiError(
            400, "lora_name must be letters, digits, and . : @ - _ within.", param="lora_name", code="invalid_value"
        )
    if request.lora_name == served.name or request.lora_name in served.adapters:
        raise ApiError(
            400, f"The model `{request.lora_name}` is there already.", param="lora_name", code="model_exists"
        )
    path = Path(request.lora_path).resolve()
    if not any(path.is_relative_to(Path(root).resolve()) for root in roots):
        raise ApiError(
            403, "lora_path is not within a folder that adapters may come from.", param="lora_path", code="path_refused"
        )
    await served.backend.load_adapter(request.lora_name, str(path))
    served.adapters[request.lora_name] = time.time()


async def unload(served: Served, request: LoadAdapterRequest, roots: tuple[str, ...]) -> None:
    check(served, roots)
    if request.lora_name not in served.adapters:
        raise ApiError(
            404, f"The model `{request.lora_name}` does not exist.", param="lora_name", code="model_not_found"
        )
    del served.adapters[request.lora_name]  # first: no new request may take it
    await served.backend.unload_adapter(request.lora_name)


def check(served: Served, roots: tuple[str, ...]) -> None:
    if not roots:
        raise ApiError(
            403,
            "Adapters are not loaded over HTTP here: start the server with --adapter-root FOLDER.",
            code="route_closed",
        )
    served.need("lora", "LoRA adapters", "lora_name")

"""/v1/embeddings: the model's own vector of each text, of length one, as numbers or base64 of little-endian float32."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import math
import struct

from ..backend import GenRequest
from ..params import SamplingParams
from .completions import prompts
from .errors import ApiError
from .generation import new_id
from .models import Served
from .schema import EmbeddingRequest


async def answer(request: EmbeddingRequest, served: Served, tenant: str) -> dict:
    adapter = served.adapter(request.model)
    served.need("embeddings", "embeddings", "model")
    texts = prompts(request.input, served, "input")
    limit = served.backend.info.max_model_len
    for ids in texts:
        if len(ids) > limit:
            raise ApiError(
                400,
                f"This model's maximum context length is {limit} tokens; the input has {len(ids)}.",
                param="input",
                code="context_length_exceeded",
            )
    vectors = await asyncio.gather(*(embed(served, ids, tenant, adapter) for ids in texts))
    data = []
    for index, vector in enumerate(vectors):
        if request.dimensions is not None:
            vector = shortened(vector, request.dimensions)
        value = (
            base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            if request.encoding_format == "base64"
            else vector
        )
        data.append({"object": "embedding", "index": index, "embedding": value})
    count = sum(len(ids) for ids in texts)
    return {
        "object": "list",
        "data": data,
        "model": request.model or served.name,
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }


async def embed(served: Served, ids: list[int], tenant: str, adapter: str | None) -> list[float]:
    request = GenRequest(
        id=new_id("emb"),
        prompt_token_ids=ids,
        params=SamplingParams(max_tokens=1),
        tenant=tenant,
        adapter=adapter,
        task="embed",
    )
    async with contextlib.aclosing(served.backend.submit(request)) as deltas:
        async for delta in deltas:
            if delta.embedding is not None:
                return delta.embedding
            if delta.error:
                raise ApiError(500, f"the engine could not embed this text: {delta.error}", code="internal_error")
    raise ApiError(500, "the engine gave no embedding", code="internal_error")


def shortened(vector: list[float], dimensions: int) -> list[float]:
    """The first numbers, made of length one again."""
    if not 1 <= dimensions <= len(vector):
        raise ApiError(
            400,
            f"dimensions must be from 1 to {len(vector)}, got {dimensions}.",
            param="dimensions",
            code="invalid_value",
        )
    part = vector[:dimensions]
    length = math.sqrt(sum(value * value for value in part)) or 1.0
    return [value / length for value in part]

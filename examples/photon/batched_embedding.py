"""Requests of many clients embedded together: hashed words, so that it needs no model and no download."""

import hashlib
import math

from leptonai.photon import Photon

SIZE = 64


class Embedding(Photon):
    """`max_batch_size` requests, or as many as came within `max_wait_time` seconds, are one call."""

    handler_max_concurrency = 2

    @Photon.handler(max_batch_size=16, max_wait_time=0.02, example={"text": "a small cloud"})
    def embed(self, text: list[str]) -> list[dict]:
        return [{"embedding": vector(one), "batch": len(text)} for one in text]


def vector(text: str) -> list[float]:
    values = [0.0] * SIZE
    for word in text.lower().split():
        digest = hashlib.sha256(word.encode()).digest()
        values[digest[0] % SIZE] += 1 if digest[1] % 2 else -1
    length = math.sqrt(sum(value * value for value in values)) or 1.0
    return [value / length for value in values]


if __name__ == "__main__":
    Embedding().launch()

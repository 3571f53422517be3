"""A chat that answers word by word, as server-sent events, and stops when its reader has gone."""

import asyncio
import json

from leptonai.photon import Photon, StreamingResponse


class Chat(Photon):
    handler_max_concurrency = 8

    @Photon.handler("chat", example={"messages": [{"role": "user", "content": "Hello there"}]})
    async def chat(self, messages: list[dict[str, str]]) -> StreamingResponse:
        words = f"You said: {messages[-1]['content']}".split()
        return StreamingResponse(events(words), media_type="text/event-stream")


async def events(words):
    for word in words:
        yield f"data: {json.dumps({'delta': word})}\n\n"
        await asyncio.sleep(0.01)  # where a model would compute
    yield "data: [DONE]\n\n"


if __name__ == "__main__":
    Chat().launch()

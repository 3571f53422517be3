"""`lep chat`: talk to a language model in the terminal: one in this process, or any OpenAI server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import click

from ..base.errors import InvalidInput, LeptonError, Missing, Unavailable

HELP = "/reset forgets the conversation, /system TEXT sets the system prompt, /help shows this, /bye or Ctrl-D leaves; Ctrl-C stops an answer."


@click.command()
@click.argument("model", required=False)
@click.option("--url", help="An OpenAI server (lep serve llm:…) instead of a model here.")
@click.option("--api-key", envvar="LEPTON_API_KEY", show_envvar=True, help="Sent to --url.")
@click.option("--system", help="System prompt.")
@click.option(
    "--temperature", type=click.FloatRange(0, 100), help="0 is always the likeliest token. Default: the model's."
)
@click.option("--max-tokens", default=1024, show_default=True, type=click.IntRange(1), help="Longest answer.")
@click.option("--seed", type=int, help="The same seed gives the same answers.")
@click.option("--quantization", type=click.Choice(["int8", "int4"]), help="Quantise the weights at load.")
@click.option("--prompt", help="Ask this, print the answer, leave.")
def chat(
    model: str | None,
    url: str | None,
    api_key: str | None,
    system: str | None,
    temperature: float | None,
    max_tokens: int,
    seed: int | None,
    quantization: str | None,
    prompt: str | None,
) -> None:
    """Chat with MODEL (a folder, a .gguf file, OWNER/NAME of the Hub), or with the one that --url serves."""
    if not model and not url:
        raise InvalidInput("which model?", fix="lep chat MODEL, or lep chat --url http://127.0.0.1:8080.")
    options = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    options = {name: value for name, value in options.items() if value is not None}
    if url:
        talk: Any = Remote(url, model, api_key, options)
    else:
        talk = Local((model or "").removeprefix("llm:"), quantization, options)
    conversation = Conversation(talk, system)
    if prompt is not None:
        return conversation.ask(prompt)
    click.echo(f"{talk.name}{'' if talk.chats else ' (no chat template: it continues your text)'}. {HELP}")
    conversation.loop()


class Conversation:
    def __init__(self, talk: Any, system: str | None):
        self.talk, self.system = talk, system
        self.messages: list[dict[str, str]] = []

    def loop(self) -> None:
        while True:
            try:
                line = input(">>> " if sys.stdin.isatty() else "").strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                click.echo()
                continue
            match line.partition(" "):
                case ("", _, _):
                    continue
                case ("/bye" | "/exit" | "/quit", _, _):
                    return
                case ("/reset", _, _):
                    self.messages = []
                    click.echo("Forgotten.")
                case ("/system", _, text):
                    self.system, self.messages = text or None, []
                    click.echo("Set; the conversation begins anew.")
                case (word, _, _) if word.startswith("/"):
                    click.echo(HELP)
                case _:
                    try:
                        self.ask(line)
                    except LeptonError as error:
                        self.messages.pop()
                        click.echo(f"Error: {error}", err=True)

    def ask(self, text: str) -> None:
        """Print the answer as it comes. Ctrl-C ends it; what came stays in the conversation."""
        self.messages.append({"role": "user", "content": text})
        system = [{"role": "system", "content": self.system}] if self.system else []
        parts: list[str] = []
        pieces = self.talk.stream(system + self.messages)
        try:
            for piece in pieces:
                parts.append(piece)
                click.echo(piece, nl=False)
        except KeyboardInterrupt:
            click.echo(" [stopped]", nl=False)
        finally:
            pieces.close()  # ends the request, so its memory is free
        click.echo()
        self.messages.append({"role": "assistant", "content": "".join(parts)})


class Local:
    """A model in this process."""

    def __init__(self, path: str, quantization: str | None, options: dict[str, Any]):
        try:
            from ..engine.llm import LLM
            from ..engine.params import SamplingParams
        except ModuleNotFoundError as error:
            raise Missing(error.name or "torch", "llm") from error
        self.llm = LLM(path, quantization=quantization)
        self.params = SamplingParams(**options)
        self.name, self.chats = self.llm.info.name, bool(self.llm.tokenizer.chat_template)

    def stream(self, messages: list[dict[str, str]]) -> Iterator[str]:
        prompt: Any = messages if self.chats else "".join(message["content"] for message in messages)
        room = self.llm.info.max_model_len - len(self.llm.encode(prompt))
        if room < 1:
            raise InvalidInput("the conversation is longer than the model's context", fix="Start anew with /reset.")
        params = self.params.replace(max_tokens=min(self.params.max_tokens or room, room))
        for piece in self.llm.stream(prompt, params):
            yield piece.text


class Remote:
    """A server with OpenAI's API."""

    def __init__(self, url: str, model: str | None, api_key: str | None, options: dict[str, Any]):
        import httpx

        base = url.rstrip("/").removesuffix("/v1")
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self.client = httpx.Client(base_url=base, headers=headers, timeout=httpx.Timeout(600, connect=10))
        self.options, self.chats = options, True
        try:
            answer = self.client.get("/v1/models")
        except httpx.HTTPError as error:
            raise Unavailable(f"{url} does not answer ({error})", fix="Start one with lep serve llm:MODEL.") from error
        self.check(answer)
        self.name = model or answer.json()["data"][0]["id"]

    @staticmethod
    def check(answer: Any) -> None:
        if answer.status_code >= 400:
            try:
                message = json.loads(answer.read())["error"]["message"]
            except (ValueError, KeyError, TypeError):
                message = f"status {answer.status_code}"
            raise Unavailable(f"the server says: {message.rstrip('.')}")

    def stream(self, messages: list[dict[str, str]]) -> Iterator[str]:
        import httpx

        body = {"model": self.name, "messages": messages, "stream": True, **self.options}
        try:
            with self.client.stream("POST", "/v1/chat/completions", json=body) as answer:
                self.check(answer)
                for line in answer.iter_lines():
                    if not line.startswith("data: ") or line == "data: [DONE]":
                        continue
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise Unavailable(f"the server says: {event['error']['message'].rstrip('.')}")
                    for choice in event["choices"]:
                        if text := choice["delta"].get("content"):
                            yield text
        except httpx.HTTPError as error:
            raise Unavailable(f"the server went away ({error})") from error

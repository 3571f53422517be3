"""`lep serve llm:MODEL`: a language model behind OpenAI's API."""

from __future__ import annotations

import click

from ..base.errors import InvalidInput, Missing

PREFIX = "llm:"
BACKENDS = ("lepton", "llama.cpp", "openvino", "vllm", "sglang")


class ServeCommand(click.Command):
    """`lep serve`, which hands `llm:…` to its own command, options and help included."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra
    ) -> click.Context:
        if any(arg.startswith(PREFIX) for arg in args):
            return serve_llm.make_context(info_name, args, parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context):
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)


@click.command()
@click.argument("model", metavar="llm:PATH_OR_REPO")
@click.option("--name", help="The model name that clients send. Default: the folder's.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Beyond this machine an API key is needed.",
)
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free port.")
@click.option(
    "--api-key",
    "api_keys",
    multiple=True,
    envvar="LEPTON_API_KEY",
    show_envvar=True,
    help="A key that may ask. Repeatable.",
)
@click.option("--backend", default="lepton", show_default=True, type=click.Choice(BACKENDS), help="The engine.")
@click.option("--quantization", type=click.Choice(["int8", "int4"]), help="Quantise the weights at load.")
@click.option("--dtype", type=click.Choice(["auto", "fp32", "bf16"]), help="Of weights that are floats.")
@click.option("--kv-cache-dtype", type=click.Choice(["auto", "bf16", "fp32", "int8"]), help="Of keys and values.")
@click.option("--kv-cache-gb", type=click.FloatRange(0, min_open=True), help="Memory for keys and values.")
@click.option("--max-model-len", type=click.IntRange(1), help="Longest prompt and answer together, in tokens.")
@click.option("--max-num-seqs", type=click.IntRange(1), help="Sequences computed at once.")
@click.option("--max-num-batched-tokens", type=click.IntRange(1), help="Tokens of one step.")
@click.option("--max-queue", type=click.IntRange(1), help="Requests that may wait; more are told 429.")
@click.option(
    "--max-concurrency",
    default=512,
    show_default=True,
    type=click.IntRange(1),
    help="Requests under way; more are told 429.",
)
@click.option("--speculate", type=click.IntRange(0, 32), help="Tokens drafted from the prompt each step.")
@click.option("--no-prefix-cache", is_flag=True, help="Compute every prompt anew.")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="NAME=FOLDER",
    help="A LoRA adapter, served as model NAME. Repeatable.",
)
@click.option(
    "--adapter-root",
    "roots",
    multiple=True,
    type=click.Path(exists=True, file_okay=False),
    help="Adapters in it may be loaded over HTTP.",
)
def serve_llm(
    model: str,
    name: str | None,
    host: str,
    port: int,
    api_keys: tuple[str, ...],
    backend: str,
    quantization: str | None,
    dtype: str | None,
    kv_cache_dtype: str | None,
    kv_cache_gb: float | None,
    max_model_len: int | None,
    max_num_seqs: int | None,
    max_num_batched_tokens: int | None,
    max_queue: int | None,
    max_concurrency: int,
    speculate: int | None,
    no_prefix_cache: bool,
    adapters: tuple[str, ...],
    roots: tuple[str, ...],
) -> None:
    """Serve a language model with OpenAI's API: chat, completions, embeddings, responses, tools, structured output.

    PATH_OR_REPO is a folder in Hugging Face's layout, a .gguf file, or OWNER/NAME of the Hub.
    """
    try:
        from ..engine.serve.app import Limits
        from ..engine.serve.server import ServeOptions, serve
        from ..engine.wire import EngineOptions
    except ModuleNotFoundError as error:
        raise Missing(error.name or "torch", "llm") from error
    path = model.removeprefix(PREFIX)
    if not path:
        raise InvalidInput("which model?", fix="Name one: lep serve llm:PATH_OR_REPO.")
    engine = EngineOptions(
        model=path, name=name or "", quantization=quantization, dtype=dtype, kv_cache_dtype=kv_cache_dtype, max_model_len=max_model_len,
        max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens, max_queue=max_queue, num_speculative_tokens=speculate,
        kv_cache_bytes=None if kv_cache_gb is None else int(kv_cache_gb * (1 << 30)), enable_prefix_caching=not no_prefix_cache,
        adapters=dict(map(read_adapter, adapters)),
    )  # fmt: skip
    limits = Limits(max_concurrency=max_concurrency, max_concurrency_per_key=max_concurrency, adapter_roots=roots)
    serve(ServeOptions(engine, backend, host, port, tuple(filter(None, api_keys)), limits), say_ready)


def read_adapter(text: str) -> tuple[str, str]:
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise InvalidInput("an adapter cannot be that", received=text, expected="NAME=FOLDER")
    return name, folder


def say_ready(url: str, served) -> None:
    info = served.backend.info
    click.echo(f"{served.name} answers on {url}/v1 ({info.dtype}, context of {info.max_model_len:,} tokens)")
    click.echo(f"  OpenAI clients  base_url={url}/v1  model={served.name}")
    click.echo(f"  terminal        lep chat --url {url}")
    click.echo("Ctrl-C stops it; requests in flight are answered first.")

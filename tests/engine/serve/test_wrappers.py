"""LangChain's and LlamaIndex's OpenAI wrappers, unchanged, in an environment of their own (LEPTON_WRAPPERS_PYTHON, or built once in the cache)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ["langchain-openai>=1,<2", "llama-index-llms-openai-like>=0.5,<1"]
LANGCHAIN = """
import sys
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

class City(BaseModel):
    "A city."
    name: str = Field(pattern="^[a-z]{2,8}$")

def clock() -> str:
    "The time."
    return "noon"

url = sys.argv[1] + "/v1"
chat = ChatOpenAI(model="byte", base_url=url, api_key="x", max_tokens=200, temperature=0.7, seed=1, max_retries=0)
assert chat.invoke("Hello").usage_metadata["output_tokens"] > 0
assert "".join(chunk.text for chunk in chat.bind(max_tokens=20).stream([HumanMessage("Hello")])) is not None
assert 2 <= len(chat.with_structured_output(City, method="json_schema").invoke("Which?").name) <= 8
called = chat.bind_tools([clock], tool_choice="clock").invoke("Time?")
assert called.tool_calls[0]["name"] == "clock", called
embeddings = OpenAIEmbeddings(model="byte", base_url=url, api_key="x", check_embedding_ctx_length=False)
assert len(embeddings.embed_query("one")) == 64
"""
LLAMA_INDEX = """
import sys
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

llm = OpenAILike(model="byte", api_base=sys.argv[1] + "/v1", api_key="x", is_chat_model=True, max_tokens=20, context_window=2048, max_retries=0)
assert llm.chat([ChatMessage(role="user", content="Hello")]).message.role == "assistant"
assert list(llm.stream_chat([ChatMessage(role="user", content="Hello")]))
completion = OpenAILike(model="byte", api_base=sys.argv[1] + "/v1", api_key="x", is_chat_model=False, max_tokens=20, max_retries=0)
assert completion.complete("Hello").text
"""


@pytest.fixture(scope="session")
def wrappers() -> str:
    if named := os.environ.get("LEPTON_WRAPPERS_PYTHON"):
        return named
    folder = Path.home() / ".cache" / "lepton-tests" / "wrappers"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        done = subprocess.run([str(python), "-m", "pip", "install", "-q", *PACKAGES], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"the wrappers cannot be installed here: {done.stderr[-200:]}")
        (folder / "ready").touch()
    return str(python)


@pytest.mark.slow
@pytest.mark.parametrize("script", [LANGCHAIN, LLAMA_INDEX], ids=["langchain", "llama-index"])
def test_wrappers_run_unchanged(server, wrappers, script):
    done = subprocess.run([wrappers, "-c", script, server.url], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]

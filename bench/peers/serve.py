"""Servers beside ours for bench/serve.py, each as its documentation writes it:  PYTHON serve.py PEER WHAT PORT [WEIGHTS]

PEER: echo (a bare ASGI app), fastapi, litserve, bentoml, mlserver. WHAT: noop ({"x": 1} → {"y": 1}), resnet ({"x": 3×32×32} → logits),
tensor (the sum of a row of 262,144 float32). Those that can batch take up to 32 rows and wait at most 5 ms.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

BATCH, WAIT_S = 32, 0.005


def run_uvicorn(app, port: int) -> None:
    import uvicorn

    uvicorn.run(app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", log_level="error", access_log=False)


def echo(what: str, port: int, weights: str) -> None:
    answer = b'{"y":1}'

    async def app(scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        more = True
        while more:
            more = (await receive()).get("more_body", False)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    run_uvicorn(app, port)


def fastapi(what: str, port: int, weights: str) -> None:
    from fastapi import FastAPI
    from pydantic import BaseModel

    app = FastAPI()
    if what == "noop":

        class Number(BaseModel):
            x: int

        async def predict(row: Number):
            return {"y": row.x}

        predict.__annotations__["row"] = Number
    else:
        import torch
        from resnet20 import load

        network = load(weights)

        class Picture(BaseModel):
            x: list[list[list[float]]]

        def predict(row: Picture):
            with torch.inference_mode():
                return {"output": network(torch.tensor([row.x]))[0].tolist()}

        predict.__annotations__["row"] = Picture
    app.post("/predict")(predict)
    run_uvicorn(app, port)


def litserve(what: str, port: int, weights: str) -> None:
    os.environ["WEIGHTS"] = weights
    # A file of its own: LitServe sends the class to its worker processes by name.
    os.execv(sys.executable, [sys.executable, str(Path(__file__).with_name("serve_litserve.py")), what, str(port)])


def bentoml(what: str, port: int, weights: str) -> None:
    source = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import bentoml
import numpy as np

@bentoml.service(workers=1, traffic={{"timeout": 60}}, logging={{"access": {{"enabled": False}}}}, metrics={{"enabled": True}})
class Peer:
    def __init__(self):
        if {what!r} == "resnet":
            from resnet20 import load
            self.network = load({weights!r})

""" + (
        "    @bentoml.api(route='/predict')\n    async def predict(self, x: int) -> dict:\n        return {'y': x}\n"
        if what == "noop"
        else f"""
    @bentoml.api(route='/predict', batchable=True, max_batch_size={BATCH}, max_latency_ms=60000)
    def predict(self, x: np.ndarray) -> np.ndarray:
        import torch
        with torch.inference_mode():
            return self.network(torch.from_numpy(x.astype(np.float32))).numpy()
"""
    )
    folder = Path(tempfile.mkdtemp())
    (folder / "service.py").write_text(source)
    os.chdir(folder)
    os.environ |= {"BENTOML_DO_NOT_TRACK": "true", "BENTOML_HOME": str(folder)}
    arguments = ["serve", "service:Peer", "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", *arguments])


def mlserver(what: str, port: int, weights: str) -> None:
    import json

    folder = Path(tempfile.mkdtemp())
    other = {"host": "127.0.0.1", "http_port": port, "grpc_port": port + 1000, "metrics_port": port + 2000}
    (folder / "settings.json").write_text(
        json.dumps({**other, "parallel_workers": 0, "debug": False, "access_logs": False})
    )
    batch = {"max_batch_size": BATCH, "max_batch_time": WAIT_S} if what == "resnet" else {}
    settings = {
        "name": "peer",
        "implementation": f"peer_runtime.{what.capitalize()}",
        "parameters": {"extra": {"weights": weights}},
        **batch,
    }
    (folder / "model-settings.json").write_text(json.dumps(settings))
    (folder / "peer_runtime.py").write_text(MLSERVER_RUNTIME.replace("HERE", repr(str(Path(__file__).parent))))
    os.chdir(folder)
    command = "from mlserver.cli import main; main()"
    os.execv(sys.executable, [sys.executable, "-c", command, "start", str(folder)])


MLSERVER_RUNTIME = """
import sys
sys.path.insert(0, HERE)
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class Noop(MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0])
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", self.compute(x))])

    def compute(self, x):
        return x

class Tensor(Noop):
    def compute(self, x):
        return x.reshape(-1, 262144).sum(1)

class Resnet(Noop):
    async def load(self):
        from resnet20 import load
        self.network = load(self.settings.parameters.extra["weights"])
        return True

    def compute(self, x):
        import numpy, torch
        with torch.inference_mode():
            return self.network(torch.from_numpy(x.astype(numpy.float32).reshape(-1, 3, 32, 32))).numpy()
"""

if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2], int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else "")

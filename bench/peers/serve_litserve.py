"""LitServe for bench/serve.py: PYTHON serve_litserve.py noop|resnet PORT, weights in $WEIGHTS."""

from __future__ import annotations

import os
import sys

import litserve as ls


class Noop(ls.LitAPI):
    def setup(self, device):
        pass

    def predict(self, request):
        return {"y": request["x"]}


class ResNet(ls.LitAPI):
    def setup(self, device):
        from resnet20 import load

        self.network = load(os.environ["WEIGHTS"])

    def decode_request(self, request):
        import torch

        return torch.tensor(request["x"])

    def batch(self, inputs):
        import torch

        return torch.stack(inputs)

    def predict(self, x):
        import torch

        with torch.inference_mode():
            return self.network(x)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"output": output.tolist()}


if __name__ == "__main__":
    api = Noop() if sys.argv[1] == "noop" else ResNet(max_batch_size=32, batch_timeout=0.005)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, log_level="error", generate_client_file=False
    )

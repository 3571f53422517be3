"""Ours for the no-op of bench/serve.py, as a user writes it: `lep photon runlocal -m bench/peers/noop_photon.py:Noop`."""

from leptonai.photon import Photon


class Noop(Photon):
    @Photon.handler("predict", example={"x": 1})
    def predict(self, x: int) -> dict:
        return {"y": x}

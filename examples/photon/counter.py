"""The smallest photon that keeps something: `lep photon runlocal -m examples/photon/counter.py:Counter`."""

from leptonai.photon import Photon


class Counter(Photon):
    """Counts."""

    def init(self):
        self.counter = 0

    @Photon.handler("add", example={"x": 2})
    def add(self, x: int) -> int:
        """Add x and say how many there are."""
        self.counter += x
        return self.counter

    @Photon.handler("sub")
    def sub(self, x: int) -> int:
        self.counter -= x
        return self.counter


if __name__ == "__main__":
    Counter().launch(port=8080)

"""A photon that travels with a file: `extra_files` are packed, and lie in the working folder when it runs."""

from pathlib import Path

from leptonai.photon import Photon


class Greeter(Photon):
    extra_files = {"greetings.txt": str(Path(__file__).parent / "greetings.txt")}

    def init(self):
        path = Path("greetings.txt")
        text = (path if path.exists() else Path(__file__).parent / path).read_text()
        self.greetings = dict(line.split("=") for line in text.splitlines())

    @Photon.handler(example={"language": "fr"})
    def greet(self, language: str = "en") -> str:
        return self.greetings[language]


if __name__ == "__main__":
    Greeter().launch()

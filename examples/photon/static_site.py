"""A static site and an API in one photon: files are served below /site."""

from pathlib import Path

from leptonai.photon import Photon, StaticFiles


class Site(Photon):
    @Photon.handler("site", mount=True)
    def site(self):
        return StaticFiles(directory=Path(__file__).parent / "site", html=True)

    @Photon.handler(method="GET")
    def visitors(self, page: str = "index") -> dict:
        return {"page": page}


if __name__ == "__main__":
    Site().launch()

"""The Photon framework: a Python class whose handlers become an HTTP service."""

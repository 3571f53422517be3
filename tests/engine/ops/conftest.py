"""Every test of a kernel runs on every instruction set that this CPU has, and compares with the pure torch reference."""

import pytest

from leptonai.engine.ops import native


@pytest.fixture(params=native.LEVELS)
def cpu(request):
    """The native operations on one instruction set, with two threads."""
    if not native.LIBRARY.exists():
        pytest.skip("the CPU kernels are not built: python -m leptonai.engine.ops.build")
    from leptonai.engine.ops import cpu as operations

    library = native.library()
    before = library.lep_isa()
    if library.lep_select_isa(request.param.encode()):
        pytest.skip(f"this CPU has no {request.param}")
    library.lep_set_threads(2)
    yield operations
    library.lep_select_isa(before)

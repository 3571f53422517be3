"""The C side of the CPU kernels: finds and loads `_lepton_cpu.so`, and mirrors `native/lepton_cpu.h` for ctypes.

The library knows no torch: it takes addresses, so it survives torch upgrades and is built without torch. ctypes gives the GIL
back during a call.
"""

from __future__ import annotations

import ctypes
import functools
import os
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_uint64, c_void_p

from ...base.errors import InvalidInput, Unavailable
from .build import LIBRARY

ABI = 1
BLOCK = 32  # slots of a KV block, and output channels of a panel of packed weights
FP32, BF16, INT8, INT4 = range(4)
KINDS = {"fp32": FP32, "bf16": BF16, "int8": INT8, "int4": INT4}
LEVELS = ("avx2", "avx512", "avx512bf16")


def structure(name: str, doc: str, **fields: type) -> type[Structure]:
    return type(name, (Structure,), {"_fields_": list(fields.items()), "__doc__": doc})


Linear = structure(
    "Linear",
    "lep_linear",
    kind=c_int32, n=c_int32, k=c_int32, group=c_int32, asymmetric=c_int32, interleaved=c_int32,
    data=c_void_p, scale=c_void_p, bias=c_void_p,
)  # fmt: skip
Lora = structure(
    "Lora", "lep_lora", rank=c_int32, column=c_int32, n=c_int32, k=c_int32, scale=c_float, a=c_void_p, b=c_void_p
)
KV = structure("KV", "lep_kv", keys=c_void_p, values=c_void_p, key_scales=c_void_p, value_scales=c_void_p)
Layer = structure(
    "Layer",
    "lep_layer",
    attention_norm=c_void_p, mlp_norm=c_void_p, query_norm=c_void_p, key_norm=c_void_p,
    qkv=Linear, o=Linear, gate_up=Linear, down=Linear, kv=KV, window=c_int32,
)  # fmt: skip
Model = structure(
    "Model",
    "lep_model",
    layers=c_int32, hidden=c_int32, heads=c_int32, kv_heads=c_int32, dim=c_int32, ffn=c_int32, vocab=c_int32, kv_kind=c_int32, rotary=c_int32,
    eps=c_float, attention_scale=c_float, embedding_kind=c_int32,
    embedding=c_void_p, cosine=c_void_p, sine=c_void_p, final_norm=c_void_p, layer=POINTER(Layer),
)  # fmt: skip
Adapter = structure("Adapter", "lep_adapter", rows=c_int32, row=c_void_p, first=c_void_p, module=POINTER(Lora))
Batch = structure(
    "Batch",
    "lep_batch",
    tokens=c_int32, sequences=c_int32, table_width=c_int32, adapters=c_int32,
    token=c_void_p, position=c_void_p, slot=c_void_p, start=c_void_p, context=c_void_p, table=c_void_p, adapter=POINTER(Adapter),
)  # fmt: skip

P, N = c_void_p, c_int32
SIGNATURES = {
    "lep_abi": (N, []),
    "lep_isa": (c_char_p, []),
    "lep_select_isa": (N, [c_char_p]),
    "lep_set_threads": (None, [N]),
    "lep_threads": (N, []),
    "lep_packed_bytes": (c_int64, [POINTER(Linear)]),
    "lep_pack_float": (None, [POINTER(Linear), P, P]),
    "lep_pack_int8": (None, [POINTER(Linear), P, P]),
    "lep_pack_int4": (None, [POINTER(Linear), P, P, P, P]),
    "lep_linear_forward": (N, [POINTER(Linear), P, N, P]),
    "lep_lora_forward": (None, [POINTER(Lora), P, P, N, P, N]),
    "lep_quantize_rows": (None, [P, N, N, P, P]),
    "lep_quantize_int4": (None, [P, N, N, N, P, P]),
    "lep_rms_norm": (None, [P, P, P, N, N, c_float, P]),
    "lep_silu_mul": (None, [P, N, N, P]),
    "lep_rope": (None, [P, P, P, P, N, N, N, N]),
    "lep_store_kv": (None, [POINTER(KV), N, P, P, P, N, N, N]),
    "lep_attention": (N, [POINTER(KV), N, P, POINTER(Batch), N, N, N, c_float, N, P]),
    "lep_argmax": (None, [P, N, N, P, P]),
    "lep_top_k": (None, [P, N, N, N, P, P, P]),
    "lep_forward": (N, [POINTER(Model), POINTER(Batch), P]),
    "lep_multiply_probe": (c_int64, [c_int64]),
    "lep_read_probe": (c_uint64, [P, c_int64]),
}


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded kernels, with the best instruction set of this CPU or the one that `LEPTON_ISA` names.

    Raises Unavailable where the library was not built, is of another version, or this CPU has none of its instruction sets;
    InvalidInput for a `LEPTON_ISA` that this CPU does not have.
    """
    fix = "Run `python -m leptonai.engine.ops.build` (needs g++ or clang++); without it the engine runs on torch alone"
    if not LIBRARY.exists():
        raise Unavailable("the CPU kernels are not built", fix=fix)
    try:
        loaded = ctypes.CDLL(str(LIBRARY))
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise Unavailable(f"the CPU kernels cannot be loaded ({error})", fix=fix) from error
    if loaded.lep_abi() != ABI:
        raise Unavailable(
            "the CPU kernels are of another version", received=loaded.lep_abi(), expected=str(ABI), fix=fix
        )
    wanted = os.environ.get("LEPTON_ISA", "")
    if wanted in LEVELS and loaded.lep_select_isa(wanted.encode()):
        raise InvalidInput(
            "LEPTON_ISA names instructions that this CPU does not have", received=wanted, fix="Unset it, or take ref"
        )
    if wanted and wanted not in (*LEVELS, "ref"):
        raise InvalidInput("LEPTON_ISA is not known", received=wanted, expected="ref, " + ", ".join(LEVELS))
    if not loaded.lep_isa():
        raise Unavailable("this CPU has neither AVX2 nor AVX-512", fix="The engine runs on torch alone")
    return loaded


def available() -> bool:
    """True where the kernels can be used; `LEPTON_ISA=ref` says no."""
    if os.environ.get("LEPTON_ISA") == "ref":
        return False
    try:
        library()
    except Unavailable:
        return False
    return True

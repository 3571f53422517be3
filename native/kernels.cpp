// All kernels of one instruction set. Compiled once per set with its flags (see engine/ops/build.py); LEPTON_ISA names the set.
// Only C headers and functions of internal linkage: an inline function shared with other files could be kept in its AVX-512 form.
#include "kernels.h"

#include <math.h>

#include "lanes.h"

#define UNROLL _Pragma("GCC unroll 16")
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

namespace lepton {
namespace {

#include "gemm.inl"
#include "attention.inl"
#include "rows.inl"

const Kernels kTable = {TEXT(LEPTON_ISA), kRows,    kAttentionRows, attention_scratch, pack_activation, gemm,   quantize_row, quantize_int4_row, rms_norm_row,
                        silu_mul_row,     rope_row, add_row,        embed_row,         store_kv,        attend, combine,      lora_row,
                        argmax,           multiply, top_k};

}  // namespace

const Kernels* JOIN(kernels_, LEPTON_ISA)() { return &kTable; }

}  // namespace lepton

// Choice of instruction set, packing of weights, threads, and the bandwidth probe.
#include <cpuid.h>
#include <stdlib.h>
#include <string.h>

#include <atomic>

#include "kernels.h"
#include "pool.h"

namespace lepton {
namespace {

struct Features { bool avx2, avx512, bf16; };

Features detect() {
  unsigned a, b, c, d;
  Features f{};
  if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
  const bool fma = c & (1u << 12), f16c = c & (1u << 29), saves = c & (1u << 27);
  if (!saves) return f;   // the system does not keep ymm registers
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
  f.avx2 = (b & (1u << 5)) && fma && f16c && (low & 6) == 6;
  const unsigned wanted = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;   // F, DQ, BW, VL
  f.avx512 = f.avx2 && (b & wanted) == wanted && (c & (1u << 11)) && (low & 0xe6) == 0xe6;
  if (f.avx512 && a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) f.bf16 = a & (1u << 5);
  return f;
}

const Kernels* best() {
  const Features f = detect();
  return f.bf16 ? kernels_avx512bf16() : f.avx512 ? kernels_avx512() : f.avx2 ? kernels_avx2() : nullptr;
}

const Kernels* find(const char* name) {
  const Features f = detect();
  if (f.bf16 && !strcmp(name, "avx512bf16")) return kernels_avx512bf16();
  if (f.avx512 && !strcmp(name, "avx512")) return kernels_avx512();
  if (f.avx2 && !strcmp(name, "avx2")) return kernels_avx2();
  return nullptr;
}

const Kernels*& chosen() {
  static const Kernels* table = best();
  return table;
}

// Source channel of a panel's channel, or -1 for padding.
int channel(const lep_linear& w, int panel, int c) {
  if (!w.interleaved) return panel * kPanel + c < w.n ? panel * kPanel + c : -1;
  const int within = panel * 16 + c % 16;
  return within < w.n / 2 ? within + (c / 16) * (w.n / 2) : -1;
}

uint16_t to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 64);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

uint16_t to_half(float x) {   // round to nearest even; weights' scales are far from the limits of fp16
  uint32_t bits;
  memcpy(&bits, &x, 4);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x47800000) return uint16_t(sign | 0x7c00);
  if (magnitude < 0x38800000) {                       // subnormal in fp16
    float value;
    memcpy(&value, &magnitude, 4);
    value += 0.5f;                                    // aligns the mantissa to 2^-24, rounding on the way
    memcpy(&bits, &value, 4);
    return uint16_t(sign | (bits - 0x3f000000));
  }
  return uint16_t(sign | ((magnitude + 0xc8000fff + (magnitude >> 13 & 1)) >> 13));
}

template <class Body>
void for_panels(const lep_linear& w, void* data, Body&& body) {
  const int64_t bytes = panel_bytes(w);
  parallel(panels_of(w), [&](int panel, int) { body(panel, static_cast<uint8_t*>(data) + panel * bytes); });
}

}  // namespace

const Kernels& kernels() { return *chosen(); }

}  // namespace lepton

using namespace lepton;

extern "C" {

int32_t lep_abi(void) { return LEP_ABI; }
const char* lep_isa(void) { return chosen() ? chosen()->name : ""; }

int32_t lep_select_isa(const char* name) {
  const Kernels* table = find(name);
  if (!table) return -1;
  chosen() = table;
  return 0;
}

void lep_set_threads(int32_t count) { set_threads(count); }
int32_t lep_threads(void) { return threads(); }

int64_t lep_packed_bytes(const lep_linear* w) { return panel_bytes(*w) * panels_of(*w); }

void lep_pack_float(const lep_linear* w, const float* weight, void* data) {
  const int words = words_of(*w);
  for_panels(*w, data, [&](int panel, uint8_t* out) {
    for (int c = 0; c < kPanel; ++c) {
      const int row = channel(*w, panel, c);
      const float* source = row < 0 ? nullptr : weight + int64_t(row) * w->k;
      for (int i = 0; i < words; ++i) {
        uint8_t* word = out + (int64_t(i) * kPanel + c) * 4;
        if (w->kind == LEP_FP32) {
          const float value = source ? source[i] : 0.0f;
          memcpy(word, &value, 4);
        } else {
          const uint16_t pair[2] = {to_bf16(source ? source[2 * i] : 0.0f), to_bf16(source && 2 * i + 1 < w->k ? source[2 * i + 1] : 0.0f)};
          memcpy(word, pair, 4);
        }
      }
    }
  });
}

void lep_pack_int8(const lep_linear* w, const int8_t* weight, void* data) {
  const int words = words_of(*w);
  for_panels(*w, data, [&](int panel, uint8_t* out) {
    for (int c = 0; c < kPanel; ++c) {
      const int row = channel(*w, panel, c);
      const int8_t* source = row < 0 ? nullptr : weight + int64_t(row) * w->k;
      for (int i = 0; i < words; ++i)
        for (int j = 0; j < 4; ++j)
          out[(int64_t(i) * kPanel + c) * 4 + j] = uint8_t(uint8_t(source && 4 * i + j < w->k ? source[4 * i + j] : 0) ^ 128);
    }
  });
}

void lep_pack_int4(const lep_linear* w, const uint8_t* q, const float* scale, const float* zero, void* data) {
  const int groups = groups_of(*w);
  const int64_t group_bytes = int4_group_bytes(*w);
  for_panels(*w, data, [&](int panel, uint8_t* out) {
    for (int c = 0; c < kPanel; ++c) {
      const int row = channel(*w, panel, c);
      for (int g = 0; g < groups; ++g) {
        uint8_t* group = out + g * group_bytes;
        const uint16_t s = to_half(row < 0 ? 0.0f : scale[int64_t(row) * groups + g]);
        memcpy(group + 2 * c, &s, 2);
        if (w->asymmetric) {
          const uint16_t z = to_half(row < 0 ? 0.0f : zero[int64_t(row) * groups + g]);
          memcpy(group + 64 + 2 * c, &z, 2);
        }
        uint8_t* nibbles = group + (w->asymmetric ? 128 : 64);
        for (int i = 0; i < w->group; ++i) {
          const int k = g * w->group + i;
          const uint8_t value = uint8_t(row < 0 || k >= w->k ? 8 : q[int64_t(row) * w->k + k] & 15);
          uint8_t& byte = nibbles[(int64_t(i / 8) * kPanel + c) * 4 + i % 4];
          byte = i % 8 < 4 ? value : uint8_t(byte | value << 4);
        }
      }
    }
  });
}

uint64_t lep_read_probe(const void* data, int64_t bytes) {
  constexpr int64_t kPiece = 1 << 20;
  std::atomic<uint64_t> sum{0};
  parallel(int((bytes + kPiece - 1) / kPiece), [&](int task, int) {
    const int64_t begin = task * kPiece, end = begin + kPiece < bytes ? begin + kPiece : bytes;
    const uint64_t* at = static_cast<const uint64_t*>(data) + begin / 8;
    uint64_t a = 0, b = 0, c = 0, d = 0;   // one read per cache line
    for (int64_t i = 0; i + 32 <= (end - begin) / 8; i += 32) a += at[i], b += at[i + 8], c += at[i + 16], d += at[i + 24];
    sum.fetch_add(a + b + c + d, std::memory_order_relaxed);
  });
  return sum.load();
}

int64_t lep_multiply_probe(int64_t rounds) {
  std::atomic<int64_t> operations{0};
  parallel(threads() * 8, [&](int, int) { operations.fetch_add(kernels().multiply(rounds), std::memory_order_relaxed); });
  return operations.load();
}

}  // extern "C"

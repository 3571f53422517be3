// Sixteen lanes of fp32 or int32, and the dot products on them: one zmm with AVX-512, two ymm with AVX2.
// Everything is in an anonymous namespace: the same names are compiled once per instruction set.
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LANES static inline __attribute__((always_inline))

namespace {

LANES float bf16_to_float(uint16_t x) {
  const uint32_t bits = uint32_t(x) << 16;
  float y;
  memcpy(&y, &bits, 4);
  return y;
}

// Round to nearest even; NaN stays NaN.
LANES uint16_t float_to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 64);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#if defined(__AVX512F__)

constexpr int kRows = 12;         // rows of a register tile: 12 x 2 accumulators, 2 weights, 1 activation
constexpr int kVectors = 2;       // 16-channel vectors of a register tile
constexpr int kOffset8 = 128;     // dot4_i8 multiplies (w + 128); the accumulator starts at -128 * sum(a)

struct F { __m512 v; };
struct I { __m512i v; };
struct W { __m512i v; };          // 16 words of packed weights

LANES F f_set(float x) { return {_mm512_set1_ps(x)}; }
LANES F f_load(const float* p) { return {_mm512_loadu_ps(p)}; }
LANES F f_load_n(const float* p, int n) { return {_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p)}; }
LANES void f_store(float* p, F x) { _mm512_storeu_ps(p, x.v); }
LANES void f_store_n(float* p, F x, int n) { _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), x.v); }
LANES F f_half(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
LANES F f_bf16(const uint16_t* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16))};
}
LANES F operator+(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
LANES F operator-(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
LANES F operator*(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
LANES F operator/(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
LANES F f_fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
LANES F f_fnma(F a, F b, F c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
LANES F f_max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
LANES F f_min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
LANES F f_abs(F a) { return {_mm512_abs_ps(a.v)}; }
LANES F f_of(I a) { return {_mm512_cvtepi32_ps(a.v)}; }
LANES float f_sum(F a) { return _mm512_reduce_add_ps(a.v); }
LANES float f_highest(F a) { return _mm512_reduce_max_ps(a.v); }
LANES I i_set(int32_t x) { return {_mm512_set1_epi32(x)}; }
LANES I i_of(F a) { return {_mm512_cvtps_epi32(a.v)}; }   // rounds to nearest even
LANES I operator+(I a, I b) { return {_mm512_add_epi32(a.v, b.v)}; }
LANES int32_t i_sum(I a) { return _mm512_reduce_add_epi32(a.v); }
LANES void i_store8(int8_t* p, I a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v)); }
LANES F f_scale2(F x, I n) { return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x.v), _mm512_slli_epi32(n.v, 23)))}; }
LANES uint32_t f_greater(F a, F b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }

LANES W w_load(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
LANES W w_low(W w) { return {_mm512_and_si512(w.v, _mm512_set1_epi8(15))}; }
LANES W w_high(W w) { return {_mm512_and_si512(_mm512_srli_epi16(w.v, 4), _mm512_set1_epi8(15))}; }
// In assembly, because GCC copies every accumulator of the intrinsic (three moves to each dot product, half the speed).
LANES I dot4_i8(I c, W w, int32_t a) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(c.v) : "v"(w.v), "v"(_mm512_set1_epi32(a)));
  return c;
}
LANES I dot4_u4(I c, W w, int32_t a) { return dot4_i8(c, w, a); }
#if defined(__AVX512BF16__)
LANES F dot2_bf16(F c, W w, uint32_t a) {
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(c.v) : "v"(w.v), "v"(_mm512_set1_epi32(int32_t(a))));
  return c;
}
#else
LANES F dot2_bf16(F c, W w, uint32_t a) {
  const __m512i high = _mm512_set1_epi32(int32_t(0xffff0000)), pair = _mm512_set1_epi32(int32_t(a));
  const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(w.v, 16)), odd = _mm512_castsi512_ps(_mm512_and_si512(w.v, high));
  const __m512 c1 = _mm512_fmadd_ps(even, _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16)), c.v);
  return {_mm512_fmadd_ps(odd, _mm512_castsi512_ps(_mm512_and_si512(pair, high)), c1)};
}
#endif
LANES F dot1_fp32(F c, W w, uint32_t a) {
  __asm__("vfmadd231ps %2, %1, %0" : "+v"(c.v) : "v"(_mm512_castsi512_ps(w.v)), "v"(_mm512_castsi512_ps(_mm512_set1_epi32(int32_t(a)))));
  return c;
}

#else  // AVX2

constexpr int kRows = 4;
constexpr int kVectors = 1;
constexpr int kOffset8 = 0;       // maddubs would saturate on (w + 128): dot4_i8 takes |w| and moves the sign to a

struct F { __m256 lo, hi; };
struct I { __m256i lo, hi; };
struct W { __m256i lo, hi; };

LANES F f_set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
LANES F f_load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
LANES void f_store(float* p, F x) { _mm256_storeu_ps(p, x.lo), _mm256_storeu_ps(p + 8, x.hi); }
LANES F f_load_n(const float* p, int n) {
  float t[16] = {};
  for (int i = 0; i < n; ++i) t[i] = p[i];
  return f_load(t);
}
LANES void f_store_n(float* p, F x, int n) {
  float t[16];
  f_store(t, x);
  for (int i = 0; i < n; ++i) p[i] = t[i];
}
LANES F f_half(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
LANES __m256 half_bf16(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
}
LANES F f_bf16(const uint16_t* p) { return {half_bf16(p), half_bf16(p + 8)}; }
LANES F operator+(F a, F b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
LANES F operator-(F a, F b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
LANES F operator*(F a, F b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
LANES F operator/(F a, F b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
LANES F f_fma(F a, F b, F c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
LANES F f_fnma(F a, F b, F c) { return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)}; }
LANES F f_max(F a, F b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
LANES F f_min(F a, F b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
LANES F f_abs(F a) {
  const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  return {_mm256_and_ps(a.lo, mask), _mm256_and_ps(a.hi, mask)};
}
LANES F f_of(I a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
LANES float f_sum(F a) {
  const __m256 s = _mm256_add_ps(a.lo, a.hi);
  const __m128 q = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  const __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps(d, d, 1)));
}
LANES float f_highest(F a) {
  const __m256 s = _mm256_max_ps(a.lo, a.hi);
  const __m128 q = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  const __m128 d = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(d, _mm_shuffle_ps(d, d, 1)));
}
LANES I i_set(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
LANES I i_of(F a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
LANES I operator+(I a, I b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
LANES int32_t i_sum(I a) {
  int32_t t[8], s = 0;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(t), _mm256_add_epi32(a.lo, a.hi));
  for (int i = 0; i < 8; ++i) s += t[i];
  return s;
}
LANES void i_store8(int8_t* p, I a) {
  int32_t t[16];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(t), a.lo), _mm256_storeu_si256(reinterpret_cast<__m256i*>(t + 8), a.hi);
  for (int i = 0; i < 16; ++i) p[i] = int8_t(t[i]);
}
LANES __m256 half_scale2(__m256 x, __m256i n) { return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(n, 23))); }
LANES F f_scale2(F x, I n) { return {half_scale2(x.lo, n.lo), half_scale2(x.hi, n.hi)}; }
LANES uint32_t f_greater(F a, F b) {
  return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_GT_OQ))) | uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(a.hi, b.hi, _CMP_GT_OQ))) << 8;
}

LANES W w_load(const uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
LANES W w_low(W w) { return {_mm256_and_si256(w.lo, _mm256_set1_epi8(15)), _mm256_and_si256(w.hi, _mm256_set1_epi8(15))}; }
LANES W w_high(W w) {
  return {_mm256_and_si256(_mm256_srli_epi16(w.lo, 4), _mm256_set1_epi8(15)), _mm256_and_si256(_mm256_srli_epi16(w.hi, 4), _mm256_set1_epi8(15))};
}
// |w| <= 128 and |a| <= 127: two products stay below 2^15, so maddubs is exact.
LANES __m256i half_dot4_i8(__m256i c, __m256i w, __m256i a) {
  const __m256i s = _mm256_xor_si256(w, _mm256_set1_epi8(char(128)));
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(s), _mm256_sign_epi8(a, s));
  return _mm256_add_epi32(c, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
LANES I dot4_i8(I c, W w, int32_t a) { return {half_dot4_i8(c.lo, w.lo, _mm256_set1_epi32(a)), half_dot4_i8(c.hi, w.hi, _mm256_set1_epi32(a))}; }
LANES __m256i half_dot4_u4(__m256i c, __m256i w, __m256i a) {
  return _mm256_add_epi32(c, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1)));
}
LANES I dot4_u4(I c, W w, int32_t a) { return {half_dot4_u4(c.lo, w.lo, _mm256_set1_epi32(a)), half_dot4_u4(c.hi, w.hi, _mm256_set1_epi32(a))}; }
LANES __m256 half_dot2_bf16(__m256 c, __m256i w, __m256i a) {
  const __m256i high = _mm256_set1_epi32(int32_t(0xffff0000));
  const __m256 c1 = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(w, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), c);
  return _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(w, high)), _mm256_castsi256_ps(_mm256_and_si256(a, high)), c1);
}
LANES F dot2_bf16(F c, W w, uint32_t a) {
  const __m256i pair = _mm256_set1_epi32(int32_t(a));
  return {half_dot2_bf16(c.lo, w.lo, pair), half_dot2_bf16(c.hi, w.hi, pair)};
}
LANES F dot1_fp32(F c, W w, uint32_t a) {
  const __m256 x = _mm256_castsi256_ps(_mm256_set1_epi32(int32_t(a)));
  return {_mm256_fmadd_ps(_mm256_castsi256_ps(w.lo), x, c.lo), _mm256_fmadd_ps(_mm256_castsi256_ps(w.hi), x, c.hi)};
}

#endif

// exp(x) for x <= 0 (softmax) and any x >= -87: Cephes' polynomial, error below 2 ulp. Smaller x gives exp(-87), about 1e-38.
LANES F f_exp(F x) {
  x = f_min(f_max(x, f_set(-87.0f)), f_set(88.0f));
  const I n = i_of(x * f_set(1.44269504088896341f));
  const F whole = f_of(n);
  F r = f_fnma(whole, f_set(0.693359375f), x);
  r = f_fnma(whole, f_set(-2.12194440e-4f), r);
  F p = f_set(1.9875691500e-4f);
  p = f_fma(p, r, f_set(1.3981999507e-3f));
  p = f_fma(p, r, f_set(8.3334519073e-3f));
  p = f_fma(p, r, f_set(4.1665795894e-2f));
  p = f_fma(p, r, f_set(1.6666665459e-1f));
  p = f_fma(p, r, f_set(5.0000001201e-1f));
  p = f_fma(p * r, r, r + f_set(1.0f));
  return f_scale2(p, n);
}

}  // namespace

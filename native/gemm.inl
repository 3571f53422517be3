// y = x W^T for packed weights. A register tile is MR rows x 32 channels; a panel is streamed once from memory and stays in
// cache for the other tiles of rows.

template <int MR, int NV>
LANES void dot_i8(I (&c)[MR][NV], const uint8_t* w, const uint32_t* a, int mr, int words) {
  for (int k = 0; k < words; ++k, w += 128, a += mr) {
    W b[NV];
    UNROLL for (int v = 0; v < NV; ++v) b[v] = w_load(w + 64 * v);
    UNROLL for (int m = 0; m < MR; ++m)
      UNROLL for (int v = 0; v < NV; ++v) c[m][v] = dot4_i8(c[m][v], b[v], int32_t(a[m]));
  }
}

template <int MR, int NV>
LANES void dot_bf16(F (&c)[MR][NV], const uint8_t* w, const uint32_t* a, int mr, int words) {
  for (int k = 0; k < words; ++k, w += 128, a += mr) {
    W b[NV];
    UNROLL for (int v = 0; v < NV; ++v) b[v] = w_load(w + 64 * v);
    UNROLL for (int m = 0; m < MR; ++m)
      UNROLL for (int v = 0; v < NV; ++v) c[m][v] = dot2_bf16(c[m][v], b[v], a[m]);
  }
}

template <int MR, int NV>
LANES void dot_fp32(F (&c)[MR][NV], const uint8_t* w, const uint32_t* a, int mr, int words) {
  for (int k = 0; k < words; ++k, w += 128, a += mr) {
    W b[NV];
    UNROLL for (int v = 0; v < NV; ++v) b[v] = w_load(w + 64 * v);
    UNROLL for (int m = 0; m < MR; ++m)
      UNROLL for (int v = 0; v < NV; ++v) c[m][v] = dot1_fp32(c[m][v], b[v], a[m]);
  }
}

template <int MR, int NV>
LANES void dot_i4(I (&c)[MR][NV], const uint8_t* w, const uint32_t* a, int mr, int pairs) {
  for (int k = 0; k < pairs; ++k, w += 128, a += 2 * mr) {
    W low[NV], high[NV];
    UNROLL for (int v = 0; v < NV; ++v) {
      const W b = w_load(w + 64 * v);
      low[v] = w_low(b), high[v] = w_high(b);
    }
    UNROLL for (int m = 0; m < MR; ++m)
      UNROLL for (int v = 0; v < NV; ++v) c[m][v] = dot4_u4(c[m][v], low[v], int32_t(a[m]));
    UNROLL for (int m = 0; m < MR; ++m)
      UNROLL for (int v = 0; v < NV; ++v) c[m][v] = dot4_u4(c[m][v], high[v], int32_t(a[mr + m]));
  }
}

using Panel = void (*)(const lep_linear&, const Activations&, int panel, int tile, float (*y)[kPanel]);

template <int MR>
void panel_i8(const lep_linear& weight, const Activations& x, int panel, int tile, float (*y)[kPanel]) {
  const uint8_t* w = static_cast<const uint8_t*>(weight.data) + panel * panel_bytes(weight);
  const uint32_t* a = x.data + int64_t(tile) * x.words * x.mr;
  for (int v0 = 0; v0 < 2; v0 += kVectors) {
    I c[MR][kVectors];
    UNROLL for (int m = 0; m < MR; ++m)
      UNROLL for (int v = 0; v < kVectors; ++v) c[m][v] = i_set(-kOffset8 * x.sums[tile * x.mr + m]);
    dot_i8<MR, kVectors>(c, w + 64 * v0, a, x.mr, x.words);
    UNROLL for (int v = 0; v < kVectors; ++v) {
      const F scale = f_load(weight.scale + panel * kPanel + 16 * (v0 + v));
      UNROLL for (int m = 0; m < MR; ++m) f_store(y[m] + 16 * (v0 + v), f_of(c[m][v]) * scale * f_set(x.scale[tile * x.mr + m]));
    }
  }
}

template <int MR, bool Asymmetric>
LANES void panel_i4(const lep_linear& weight, const Activations& x, int panel, int tile, float (*y)[kPanel]) {
  const int64_t group_bytes = int4_group_bytes(weight);
  const int head = Asymmetric ? 128 : 64, words = weight.group / 4;
  for (int v0 = 0; v0 < 2; v0 += kVectors) {
    const uint8_t* w = static_cast<const uint8_t*>(weight.data) + panel * panel_bytes(weight);
    const uint32_t* a = x.data + int64_t(tile) * x.words * x.mr;
    const int32_t* sums = x.sums + int64_t(tile) * x.groups * x.mr;
    for (int m = 0; m < MR; ++m)
      for (int v = 0; v < kVectors; ++v) f_store(y[m] + 16 * (v0 + v), f_set(0));
    for (int g = 0; g < x.groups; ++g, w += group_bytes, a += words * x.mr, sums += x.mr) {
      const uint16_t* scales = reinterpret_cast<const uint16_t*>(w);
      I c[MR][kVectors];
      UNROLL for (int m = 0; m < MR; ++m)
        UNROLL for (int v = 0; v < kVectors; ++v) c[m][v] = i_set(Asymmetric ? 0 : -8 * sums[m]);
      dot_i4<MR, kVectors>(c, w + head + 64 * v0, a, x.mr, words / 2);
      UNROLL for (int v = 0; v < kVectors; ++v) {
        const F scale = f_half(scales + 16 * (v0 + v));
        F zero = f_set(0);
        if (Asymmetric) zero = f_half(scales + 32 + 16 * (v0 + v));
        UNROLL for (int m = 0; m < MR; ++m) {
          F value = f_of(c[m][v]);
          if (Asymmetric) value = f_fnma(zero, f_set(float(sums[m])), value);
          f_store(y[m] + 16 * (v0 + v), f_fma(value, scale, f_load(y[m] + 16 * (v0 + v))));
        }
      }
    }
  }
  for (int m = 0; m < MR; ++m)
    for (int v = 0; v < 2; ++v) f_store(y[m] + 16 * v, f_load(y[m] + 16 * v) * f_set(x.scale[tile * x.mr + m]));
}

template <int MR>
void panel_i4_symmetric(const lep_linear& weight, const Activations& x, int panel, int tile, float (*y)[kPanel]) {
  panel_i4<MR, false>(weight, x, panel, tile, y);
}

template <int MR>
void panel_i4_asymmetric(const lep_linear& weight, const Activations& x, int panel, int tile, float (*y)[kPanel]) {
  panel_i4<MR, true>(weight, x, panel, tile, y);
}

template <int MR, bool Bf16>
LANES void panel_float(const lep_linear& weight, const Activations& x, int panel, int tile, float (*y)[kPanel]) {
  const uint8_t* w = static_cast<const uint8_t*>(weight.data) + panel * panel_bytes(weight);
  const uint32_t* a = x.data + int64_t(tile) * x.words * x.mr;
  for (int v0 = 0; v0 < 2; v0 += kVectors) {
    F c[MR][kVectors];
    UNROLL for (int m = 0; m < MR; ++m)
      UNROLL for (int v = 0; v < kVectors; ++v) c[m][v] = f_set(0);
    if (Bf16) dot_bf16<MR, kVectors>(c, w + 64 * v0, a, x.mr, x.words);
    else dot_fp32<MR, kVectors>(c, w + 64 * v0, a, x.mr, x.words);
    UNROLL for (int m = 0; m < MR; ++m)
      UNROLL for (int v = 0; v < kVectors; ++v) f_store(y[m] + 16 * (v0 + v), c[m][v]);
  }
}

template <int MR>
void panel_bf16(const lep_linear& weight, const Activations& x, int panel, int tile, float (*y)[kPanel]) {
  panel_float<MR, true>(weight, x, panel, tile, y);
}

template <int MR>
void panel_fp32(const lep_linear& weight, const Activations& x, int panel, int tile, float (*y)[kPanel]) {
  panel_float<MR, false>(weight, x, panel, tile, y);
}

#if defined(__AVX512F__)
#define BY_ROWS(f) {f<1>, f<2>, f<3>, f<4>, f<5>, f<6>, f<7>, f<8>, f<9>, f<10>, f<11>, f<12>}
#else
#define BY_ROWS(f) {f<1>, f<2>, f<3>, f<4>}
#endif
const Panel kPanelI8[kRows] = BY_ROWS(panel_i8);
const Panel kPanelI4[kRows] = BY_ROWS(panel_i4_symmetric);
const Panel kPanelI4Asymmetric[kRows] = BY_ROWS(panel_i4_asymmetric);
const Panel kPanelBf16[kRows] = BY_ROWS(panel_bf16);
const Panel kPanelFp32[kRows] = BY_ROWS(panel_fp32);

LANES Panel panel_of(const lep_linear& weight, int mr) {
  switch (weight.kind) {
    case LEP_INT8: return kPanelI8[mr - 1];
    case LEP_INT4: return (weight.asymmetric ? kPanelI4Asymmetric : kPanelI4)[mr - 1];
    case LEP_BF16: return kPanelBf16[mr - 1];
    default: return kPanelFp32[mr - 1];
  }
}

LANES F silu(F x) { return x / (f_set(1) + f_exp(f_set(0) - x)); }

LANES void write_row(const float* tile, float* y, int n, Epilogue epilogue) {
  for (int i = 0; i < n; i += 16) {
    const int left = n - i;
    if (left >= 16) {
      const F value = f_load(tile + i);
      f_store(y + i, epilogue == kAdd ? f_load(y + i) + value : value);
    } else {
      const F value = f_load(tile + i);
      f_store_n(y + i, epilogue == kAdd ? f_load_n(y + i, left) + value : value, left);
    }
  }
}

void gemm(const lep_linear& weight, const Activations& x, int first_panel, int last_panel, float* y, int64_t stride, Epilogue epilogue) {
  const Panel panel_kernel = panel_of(weight, x.mr);
  alignas(64) float tile[kRows][kPanel];
  for (int panel = first_panel; panel < last_panel; ++panel)
    for (int t = 0; t < x.tiles; ++t) {
      panel_kernel(weight, x, panel, t, tile);
      const int rows = x.rows - t * x.mr < x.mr ? x.rows - t * x.mr : x.mr;
      if (weight.bias)
        for (int m = 0; m < rows; ++m)
          for (int v = 0; v < 32; v += 16) f_store(tile[m] + v, f_load(tile[m] + v) + f_load(weight.bias + panel * kPanel + v));
      for (int m = 0; m < rows; ++m) {
        float* row = y + int64_t(t * x.mr + m) * stride;
        if (epilogue == kSiluMul) {
          const int left = weight.n / 2 - panel * 16;
          f_store_n(row + panel * 16, silu(f_load(tile[m])) * f_load(tile[m] + 16), left < 16 ? left : 16);
        } else if (weight.interleaved) {
          const int left = weight.n / 2 - panel * 16, n = left < 16 ? left : 16;
          write_row(tile[m], row + panel * 16, n, epilogue);
          write_row(tile[m] + 16, row + weight.n / 2 + panel * 16, n, epilogue);
        } else {
          const int left = weight.n - panel * kPanel;
          write_row(tile[m], row + panel * kPanel, left < kPanel ? left : kPanel, epilogue);
        }
      }
    }
}

// Largest |x|, and x / (largest / 127) rounded to nearest even.
LANES float largest_abs(const float* x, int n) {
  F highest = f_set(0);
  int i = 0;
  for (; i + 16 <= n; i += 16) highest = f_max(highest, f_abs(f_load(x + i)));
  if (i < n) highest = f_max(highest, f_abs(f_load_n(x + i, n - i)));
  return f_highest(highest);
}

void quantize_row(const float* x, int n, int8_t* q, float* scale) {
  const float largest = largest_abs(x, n);
  *scale = largest > 0 ? largest / 127.0f : 1.0f;
  const F inverse = f_set(largest > 0 ? 127.0f / largest : 0.0f);
  int i = 0;
  for (; i + 16 <= n; i += 16) i_store8(q + i, i_of(f_load(x + i) * inverse));
  if (i < n) {
    int8_t tail[16];
    i_store8(tail, i_of(f_load_n(x + i, n - i) * inverse));
    memcpy(q + i, tail, size_t(n - i));
  }
}

// Weights in groups: the scale, rounded to fp16, takes the first of the largest magnitudes to -8. See layout.quantize_int4.
void quantize_int4_row(const float* x, int n, int group, uint8_t* q, float* scale) {
  for (int begin = 0; begin < n; begin += group) {
    const int length = n - begin < group ? n - begin : group;
    const float* part = x + begin;
    const float magnitude = largest_abs(part, length);
    float largest = magnitude;
    for (int i = 0; i < length; ++i)
      if (fabsf(part[i]) == magnitude) {
        largest = part[i];
        break;
      }
    const float step = _cvtsh_ss(_cvtss_sh(largest / -8.0f, 0));
    scale[begin / group] = step;
    for (int i = 0; i < length; i += 16) {
      const int left = length - i < 16 ? length - i : 16;
      F value = step != 0 ? f_load_n(part + i, left) / f_set(step) : f_set(0);
      value = f_max(f_min(value, f_set(7.0f)), f_set(-8.0f));
      int8_t digits[16];
      i_store8(digits, i_of(value) + i_set(8));
      memcpy(q + begin + i, digits, size_t(left));
    }
  }
}

LANES int32_t sum_i8(const int8_t* q, int n) {
  int32_t s = 0;
  for (int i = 0; i < n; ++i) s += q[i];
  return s;
}

// Words of a row into its tile. Rows are handled in pieces so that the buffer stays in the first-level cache.
void pack_activation(const Activations& x, int row, const float* source) {
  constexpr int kPiece = 2048;
  const int tile = row / x.mr, m = row % x.mr;
  uint32_t* out = x.data + int64_t(tile) * x.words * x.mr + m;
  if (x.kind == LEP_FP32) {
    for (int k = 0; k < x.k; ++k) memcpy(out + int64_t(k) * x.mr, source + k, 4);
    return;
  }
  if (x.kind == LEP_BF16) {
    for (int w = 0; w < x.words; ++w) {
      const uint32_t low = float_to_bf16(source[2 * w]), high = 2 * w + 1 < x.k ? float_to_bf16(source[2 * w + 1]) : 0;
      out[int64_t(w) * x.mr] = low | high << 16;
    }
    return;
  }
  const float largest = largest_abs(source, x.k);
  x.scale[row] = largest > 0 ? largest / 127.0f : 1.0f;
  const F inverse = f_set(largest > 0 ? 127.0f / largest : 0.0f);
  alignas(64) int8_t piece[kPiece];
  const int unit = x.kind == LEP_INT4 ? x.group : kPiece;   // a piece is one group, so that its sum is the group's
  const int padded = x.words * 4;
  int32_t total = 0;
  for (int begin = 0; begin < padded; begin += unit) {
    const int length = padded - begin < unit ? padded - begin : unit;
    int i = 0;
    for (; i + 16 <= length && begin + i + 16 <= x.k; i += 16) i_store8(piece + i, i_of(f_load(source + begin + i) * inverse));
    for (; i < length; i += 16) {
      const int left = x.k - begin - i;
      int8_t tail[16];
      i_store8(tail, i_of(f_load_n(source + begin + i, left < 0 ? 0 : left < 16 ? left : 16) * inverse));
      memcpy(piece + i, tail, size_t(length - i < 16 ? length - i : 16));
    }
    const int32_t sum = sum_i8(piece, length);
    if (x.kind == LEP_INT4) x.sums[(int64_t(tile) * x.groups + begin / unit) * x.mr + m] = sum;
    total += sum;
    for (int w = 0; w < length / 4; ++w) memcpy(out + int64_t(begin / 4 + w) * x.mr, piece + 4 * w, 4);
  }
  if (x.kind == LEP_INT8) x.sums[row] = total;
}

// Paged attention for one (sequence, kv head, few tokens): the query heads of a group are rows of a small GEMM whose packed
// weights are the cached blocks. Online softmax in strips of 128 cached tokens, fp32; int8 operands in two parts (15 bits).

constexpr int kAttentionRows = kRows * 2;
constexpr float kMasked = -1e30f;

template <int Kind> struct Cache;
template <> struct Cache<LEP_FP32> { static constexpr int kPack = 1, kParts = 1, kBytes = 4; };
template <> struct Cache<LEP_BF16> { static constexpr int kPack = 2, kParts = 1, kBytes = 2; };
template <> struct Cache<LEP_INT8> { static constexpr int kPack = 4, kParts = 2, kBytes = 1; };

// Rows as the left operand of dot_*: like Activations, in tiles of `mr`. Part p of row r is row p * rows + r.
struct Operand {
  uint32_t* words;
  float scale[kAttentionRows];
  int32_t sums[kAttentionRows * 2 + kRows];
};

// The value of an int8 row is scale * (q0 + q1 / 254).
constexpr float kSecondPart = 1.0f / 254;

template <int Kind>
void pack_operand(Operand& operand, const float* x, int64_t stride, int rows, int columns, int mr) {
  constexpr int kPack = Cache<Kind>::kPack;
  const int words = columns / kPack;
  for (int r = 0; r < rows; ++r) {
    const float* source = x + r * stride;
    uint32_t* out = operand.words + int64_t(r / mr) * words * mr + r % mr;
    if (Kind == LEP_FP32) {
      for (int k = 0; k < columns; ++k) memcpy(out + int64_t(k) * mr, source + k, 4);
    } else if (Kind == LEP_BF16) {
      for (int w = 0; w < words; ++w) out[int64_t(w) * mr] = uint32_t(float_to_bf16(source[2 * w])) | uint32_t(float_to_bf16(source[2 * w + 1])) << 16;
    } else {
      const int second = rows + r;
      uint32_t* out2 = operand.words + int64_t(second / mr) * words * mr + second % mr;
      const float largest = largest_abs(source, columns);
      operand.scale[r] = largest / 127.0f;
      const F inverse = f_set(largest > 0 ? 127.0f / largest : 0.0f);
      I sum1 = i_set(0), sum2 = i_set(0);
      for (int k = 0; k < columns; k += 16) {
        alignas(16) int8_t q1[16], q2[16];
        const F value = f_load(source + k) * inverse;
        const I first = i_of(value), rest = i_of((value - f_of(first)) * f_set(254.0f));
        i_store8(q1, first), i_store8(q2, rest);
        sum1 = sum1 + first, sum2 = sum2 + rest;
        for (int w = 0; w < 4; ++w) {
          memcpy(out + int64_t(k / 4 + w) * mr, q1 + 4 * w, 4);
          memcpy(out2 + int64_t(k / 4 + w) * mr, q2 + 4 * w, 4);
        }
      }
      operand.sums[r] = i_sum(sum1), operand.sums[second] = i_sum(sum2);
    }
  }
}

// What is read soon, a tile for each panel of the product under way: cached blocks lie anywhere, and each is too short for the
// hardware to see a stream. Products with keys fetch the same blocks' values, products with values the next strip's keys.
struct Ahead {
  const uint8_t* const* tile;
  int64_t offset;
};

// Into the second level: a fetch into the first holds one of its few miss buffers for the whole way to memory.
LANES void fetch(const uint8_t* at, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(at + i), _MM_HINT_T2);
}

// y[row][32] = operand rows x panels, where the k-th `words` words of the rows meet panel k. int8 results are integers as float.
template <int Kind, int MR>
void dot_tile(const Operand& operand, int tile, int mr, const uint8_t* const* panel, int panels, int words, const Ahead* ahead, float (*y)[kPanel]) {
  const uint32_t* rows = operand.words + int64_t(tile) * panels * words * mr;
  for (int v0 = 0; v0 < 2; v0 += kVectors) {
    if constexpr (Kind == LEP_INT8) {
      I c[MR][kVectors];
      UNROLL for (int m = 0; m < MR; ++m)
        UNROLL for (int v = 0; v < kVectors; ++v) c[m][v] = i_set(-kOffset8 * operand.sums[tile * mr + m]);
      for (int p = 0; p < panels; ++p)
        for (int w = 0; w < words; w += 8) {   // words: 8, or dim / 4
          if (ahead && !v0) fetch(ahead->tile[p] + ahead->offset + w * 128, 1024);
          dot_i8<MR, kVectors>(c, panel[p] + w * 128 + 64 * v0, rows + (int64_t(p) * words + w) * mr, mr, 8);
        }
      UNROLL for (int m = 0; m < MR; ++m)
        UNROLL for (int v = 0; v < kVectors; ++v) f_store(y[m] + 16 * (v0 + v), f_of(c[m][v]));
    } else {
      F c[MR][kVectors];
      UNROLL for (int m = 0; m < MR; ++m)
        UNROLL for (int v = 0; v < kVectors; ++v) c[m][v] = f_set(0);
      for (int p = 0; p < panels; ++p) {
        for (int w = 0; w < words; w += 8) {
          const uint32_t* a = rows + (int64_t(p) * words + w) * mr;
          if (ahead && !v0) fetch(ahead->tile[p] + ahead->offset + w * 128, 1024);
          if constexpr (Kind == LEP_BF16) dot_bf16<MR, kVectors>(c, panel[p] + w * 128 + 64 * v0, a, mr, 8);
          else dot_fp32<MR, kVectors>(c, panel[p] + w * 128 + 64 * v0, a, mr, 8);
        }
      }
      UNROLL for (int m = 0; m < MR; ++m)
        UNROLL for (int v = 0; v < kVectors; ++v) f_store(y[m] + 16 * (v0 + v), c[m][v]);
    }
  }
}

template <int Kind, int MR = kRows>
LANES void dot_rows(int mr, const Operand& operand, int tile, const uint8_t* const* panel, int panels, int words, const Ahead* ahead,
                    float (*y)[kPanel]) {
  if constexpr (MR > 1) {
    if (mr < MR) return dot_rows<Kind, MR - 1>(mr, operand, tile, panel, panels, words, ahead, y);
  }
  dot_tile<Kind, MR>(operand, tile, mr, panel, panels, words, ahead, y);
}

struct Scratch {
  Operand query, weights;
  alignas(64) float scores[kAttentionRows][kStrip];
  alignas(64) float tile[kAttentionRows * 2 + kRows][kPanel];
  float maximum[kAttentionRows], total[kAttentionRows], rescale[kAttentionRows];
  int low[kAttentionRows], high[kAttentionRows];   // cached tokens that a row sees
};

constexpr int kOperandRows = kAttentionRows * 2 + kRows;

int64_t attention_scratch(int dim) {
  return int64_t(sizeof(Scratch)) + 64 * 4 + int64_t(kOperandRows) * (padded_dim(dim) + kStrip) * 4 + int64_t(kAttentionRows) * padded_dim(dim) * 4 * 2;
}

// All parts of all rows against the panels, into s.tile.
template <int Kind>
LANES void dot_all(Scratch& s, const Operand& operand, int rows, int mr, const uint8_t* const* panel, int panels, int words,
                   const Ahead* ahead) {
  for (int t = 0; t * mr < rows * Cache<Kind>::kParts; ++t)
    dot_rows<Kind>(mr, operand, t, panel, panels, words, t ? nullptr : ahead, s.tile + t * mr);
}

template <int Kind>
LANES F combined(const Scratch& s, const Operand& operand, int rows, int r, int column) {
  const F first = f_load(s.tile[r] + column);
  if (Kind != LEP_INT8) return first;
  return f_fma(f_load(s.tile[rows + r] + column), f_set(kSecondPart), first) * f_set(operand.scale[r]);
}

template <int Kind>
void attend_kind(const AttentionTile& t, Scratch& s, float* result, float* padded_query) {
  using C = Cache<Kind>;
  const int dim = padded_dim(t.dim), rows = t.tokens * t.group, parts = rows * C::kParts;
  const int tiles = ceil_div(parts, kRows), mr = ceil_div(parts, tiles);
  const int64_t tile_elements = int64_t(kPanel) * dim;
  const auto block_of = [&](int token) { return int64_t(t.table[token / kPanel]) * t.kv_heads + t.kv_head; };
  const uint8_t* keys = static_cast<const uint8_t*>(t.kv->keys);
  const uint8_t* values = static_cast<const uint8_t*>(t.kv->values);
  const uint8_t* next_keys[kStrip / kPanel];
  // Keys of the strip; after the last strip, the first keys of the head that this thread is likely to take next.
  const auto look_ahead = [&](int strip) {
    const int head = strip < t.end ? t.kv_head : t.next_kv_head, from = strip < t.end ? strip : t.begin / kPanel * kPanel;
    for (int b = 0; b < kStrip / kPanel; ++b) {
      const int token = from + b * kPanel < t.end ? from + b * kPanel : t.end - 1;
      const int64_t block = int64_t(t.table[token / kPanel]) * t.kv_heads + head;
      next_keys[b] = keys + block * tile_elements * C::kBytes;
      if (Kind == LEP_INT8) fetch(reinterpret_cast<const uint8_t*>(t.kv->key_scales + block * kPanel), kPanel * 4);
    }
  };
  const int first_strip = t.begin / kPanel * kPanel;
  if (t.begin < t.end) {
    look_ahead(first_strip);
    for (int b = 0; b < kStrip / kPanel; ++b) fetch(next_keys[b], tile_elements * C::kBytes);
  }
  for (int r = 0; r < rows; ++r) {
    const float* source = t.query + (r / t.group) * t.query_stride + int64_t(r % t.group) * t.dim;
    for (int d = 0; d < dim; ++d) padded_query[int64_t(r) * dim + d] = d < t.dim ? source[d] * t.scale : 0.0f;
    const int position = t.first_position + r / t.group;
    s.high[r] = position + 1;
    s.low[r] = t.window && position + 1 > t.window ? position + 1 - t.window : 0;
    s.maximum[r] = kMasked, s.total[r] = 0;
  }
  memset(result, 0, size_t(rows) * size_t(dim) * 4);
  pack_operand<Kind>(s.query, padded_query, dim, rows, dim, mr);

  for (int strip = first_strip; strip < t.end; strip += kStrip) {
    const int blocks = ceil_div((t.end - strip < kStrip ? t.end - strip : kStrip), kPanel), width = blocks * kPanel;
    for (int b = 0; b < blocks; ++b) {
      const int first = strip + b * kPanel;
      const int64_t block = block_of(first);
      const uint8_t* panel = keys + block * tile_elements * C::kBytes;
      const uint8_t* value_tile = values + block * tile_elements * C::kBytes;
      const Ahead ahead{&value_tile, 0};
      if (Kind == LEP_INT8) fetch(reinterpret_cast<const uint8_t*>(t.kv->value_scales + block * kPanel), kPanel * 4);
      dot_all<Kind>(s, s.query, rows, mr, &panel, 1, dim / C::kPack, &ahead);
      for (int r = 0; r < rows; ++r) {
        for (int v = 0; v < kPanel; v += 16) {
          F score = combined<Kind>(s, s.query, rows, r, v);
          if (Kind == LEP_INT8) score = score * f_load(t.kv->key_scales + block * kPanel + v);
          f_store(s.scores[r] + b * kPanel + v, score);
        }
        const int high = s.high[r] < t.end ? s.high[r] : t.end, low = s.low[r] > t.begin ? s.low[r] : t.begin;
        if (first + kPanel > high || first < low)
          for (int i = 0; i < kPanel; ++i)
            if (first + i >= high || first + i < low) s.scores[r][b * kPanel + i] = kMasked;
      }
    }
    for (int r = 0; r < rows; ++r) {
      float* score = s.scores[r];
      F highest = f_set(s.maximum[r]), sum = f_set(0);
      for (int i = 0; i < width; i += 16) highest = f_max(highest, f_load(score + i));
      const float maximum = f_highest(highest);
      s.rescale[r] = f_highest(f_exp(f_set(s.maximum[r] - maximum)));
      for (int i = 0; i < width; i += 16) {
        F p = f_exp(f_load(score + i) - f_set(maximum));
        sum = sum + p;
        if (Kind == LEP_INT8) p = p * f_load(t.kv->value_scales + block_of(strip + i) * kPanel + i % kPanel);
        f_store(score + i, p);
      }
      s.maximum[r] = maximum;
      s.total[r] = s.total[r] * s.rescale[r] + f_sum(sum);
    }
    look_ahead(strip + kStrip);
    pack_operand<Kind>(s.weights, s.scores[0], kStrip, rows, width, mr);
    for (int column = 0; column < dim; column += kPanel) {
      const uint8_t* panel[kStrip / kPanel];
      for (int b = 0; b < blocks; ++b)
        panel[b] = values + (block_of(strip + b * kPanel) * tile_elements + int64_t(column) * kPanel) * C::kBytes;
      const Ahead ahead{next_keys, int64_t(column) * kPanel * C::kBytes};
      dot_all<Kind>(s, s.weights, rows, mr, panel, blocks, kPanel / C::kPack, &ahead);
      for (int r = 0; r < rows; ++r)
        for (int v = 0; v < kPanel; v += 16) {
          float* out = result + int64_t(r) * dim + column + v;
          f_store(out, f_fma(f_load(out), f_set(s.rescale[r]), combined<Kind>(s, s.weights, rows, r, v)));
        }
    }
  }
  for (int r = 0; r < rows; ++r) {
    float* out = t.out + (r / t.group) * t.out_stride + int64_t(r % t.group) * t.dim;
    const float factor = t.total ? 1.0f : s.total[r] > 0 ? 1.0f / s.total[r] : 0.0f;
    for (int d = 0; d < t.dim; ++d) out[d] = result[int64_t(r) * dim + d] * factor;
    if (t.total) t.maximum[r] = s.maximum[r], t.total[r] = s.total[r];
  }
}

void attend(const AttentionTile& t, void* memory) {
  uintptr_t at = (reinterpret_cast<uintptr_t>(memory) + 63) & ~uintptr_t(63);
  Scratch& s = *reinterpret_cast<Scratch*>(at);
  const int dim = padded_dim(t.dim);
  float* rest = reinterpret_cast<float*>((at + sizeof(Scratch) + 63) & ~uintptr_t(63));
  s.query.words = reinterpret_cast<uint32_t*>(rest);
  s.weights.words = s.query.words + int64_t(kOperandRows) * dim;
  float* result = rest + int64_t(kOperandRows) * (dim + kStrip);
  float* query = result + int64_t(kAttentionRows) * dim;
  if (t.kv_kind == LEP_INT8) attend_kind<LEP_INT8>(t, s, result, query);
  else if (t.kv_kind == LEP_BF16) attend_kind<LEP_BF16>(t, s, result, query);
  else attend_kind<LEP_FP32>(t, s, result, query);
}

// Parts of one row, each over its share of the context, into the row.
void combine(int parts, int dim, const float* partial, int64_t part_stride, const float* maximum, const float* total, int64_t stat_stride, float* y) {
  float highest = kMasked, sum = 0;
  for (int p = 0; p < parts; ++p) highest = maximum[p * stat_stride] > highest ? maximum[p * stat_stride] : highest;
  for (int d = 0; d < dim; ++d) y[d] = 0;
  for (int p = 0; p < parts; ++p) {
    const float factor = f_highest(f_exp(f_set(maximum[p * stat_stride] - highest)));
    sum += factor * total[p * stat_stride];
    for (int d = 0; d < dim; ++d) y[d] += factor * partial[p * part_stride + d];
  }
  for (int d = 0; d < dim; ++d) y[d] *= sum > 0 ? 1.0f / sum : 0.0f;
}

// One token's key and value of one head into their tiles.
void store_kv(const lep_kv& kv, int kv_kind, int64_t slot, int kv_head, int kv_heads, int dim, const float* key, const float* value) {
  const int padded = padded_dim(dim), at = int(slot % kPanel);
  const int64_t block = slot / kPanel * kv_heads + kv_head, offset = block * kPanel * padded;
  if (kv_kind == LEP_FP32) {
    float* k = static_cast<float*>(kv.keys) + offset;
    float* v = static_cast<float*>(kv.values) + offset;
    for (int d = 0; d < dim; ++d) {
      k[int64_t(d) * kPanel + at] = key[d];
      v[(int64_t(d / kPanel) * kPanel + at) * kPanel + d % kPanel] = value[d];
    }
  } else if (kv_kind == LEP_BF16) {
    uint16_t* k = static_cast<uint16_t*>(kv.keys) + offset;
    uint16_t* v = static_cast<uint16_t*>(kv.values) + offset;
    for (int d = 0; d < dim; ++d) {
      k[(int64_t(d / 2) * kPanel + at) * 2 + d % 2] = float_to_bf16(key[d]);
      v[((int64_t(d / kPanel) * (kPanel / 2) + at / 2) * kPanel + d % kPanel) * 2 + at % 2] = float_to_bf16(value[d]);
    }
  } else {
    uint8_t* k = static_cast<uint8_t*>(kv.keys) + offset;
    uint8_t* v = static_cast<uint8_t*>(kv.values) + offset;
    int8_t q[16];
    for (int side = 0; side < 2; ++side) {
      const bool is_key = side == 0;
      const float* source = is_key ? key : value;
      const float largest = largest_abs(source, dim);
      (is_key ? kv.key_scales : kv.value_scales)[block * kPanel + at] = largest > 0 ? largest / 127.0f : 1.0f;
      const F inverse = f_set(largest > 0 ? 127.0f / largest : 0.0f);
      for (int d = 0; d < padded; d += 16) {
        const int left = dim - d;
        i_store8(q, i_of(f_load_n(source + d, left < 0 ? 0 : left < 16 ? left : 16) * inverse));
        for (int i = 0; i < 16; ++i) {
          const uint8_t stored = uint8_t(uint8_t(q[i]) ^ 128);
          if (is_key) k[(int64_t((d + i) / 4) * kPanel + at) * 4 + (d + i) % 4] = stored;
          else v[((int64_t((d + i) / kPanel) * (kPanel / 4) + at / 4) * kPanel + (d + i) % kPanel) * 4 + at % 4] = stored;
        }
      }
    }
  }
}

// Kernels on one row: norms, rotary embedding, gating, adapters, and the choice of tokens.

void rms_norm_row(const float* x, const float* weight, int n, float eps, float* y) {
  F squares = f_set(0);
  int i = 0;
  for (; i + 16 <= n; i += 16) squares = f_fma(f_load(x + i), f_load(x + i), squares);
  if (i < n) squares = f_fma(f_load_n(x + i, n - i), f_load_n(x + i, n - i), squares);
  const F factor = f_set(1.0f / sqrtf(f_sum(squares) / float(n) + eps));
  for (i = 0; i + 16 <= n; i += 16) f_store(y + i, f_load(x + i) * factor * f_load(weight + i));
  if (i < n) f_store_n(y + i, f_load_n(x + i, n - i) * factor * f_load_n(weight + i, n - i), n - i);
}

void silu_mul_row(const float* x, int n, float* y) {
  int i = 0;
  for (; i + 16 <= n; i += 16) f_store(y + i, silu(f_load(x + i)) * f_load(x + n + i));
  if (i < n) f_store_n(y + i, silu(f_load_n(x + i, n - i)) * f_load_n(x + n + i, n - i), n - i);
}

// Rotates (x[i], x[i + rotary / 2]), the layout of Llama, Qwen and Mistral checkpoints.
void rope_row(float* x, const float* cosine, const float* sine, int rotary) {
  const int half = rotary / 2;
  for (int i = 0; i < half; i += 16) {
    const int n = half - i < 16 ? half - i : 16;
    const F a = f_load_n(x + i, n), b = f_load_n(x + half + i, n), c = f_load_n(cosine + i, n), s = f_load_n(sine + i, n);
    f_store_n(x + i, f_fnma(b, s, a * c), n);
    f_store_n(x + half + i, f_fma(a, s, b * c), n);
  }
}

void add_row(float* y, const float* x, int n) {
  for (int i = 0; i < n; ++i) y[i] += x[i];
}

void embed_row(const void* table, int kind, int64_t index, int n, float* y) {
  if (kind == LEP_FP32) {
    memcpy(y, static_cast<const float*>(table) + index * n, size_t(n) * 4);
  } else {
    const uint16_t* row = static_cast<const uint16_t*>(table) + index * n;
    for (int i = 0; i < n; ++i) y[i] = bf16_to_float(row[i]);
  }
}

void lora_row(const lep_lora& lora, const float* x, float* y) {
  alignas(64) float hidden[512];   // rank <= 512, checked where adapters are loaded
  for (int r = 0; r < lora.rank; ++r) {
    const float* a = lora.a + int64_t(r) * lora.k;
    F sum = f_set(0);
    int i = 0;
    for (; i + 16 <= lora.k; i += 16) sum = f_fma(f_load(a + i), f_load(x + i), sum);
    if (i < lora.k) sum = f_fma(f_load_n(a + i, lora.k - i), f_load_n(x + i, lora.k - i), sum);
    hidden[r] = f_sum(sum) * lora.scale;
  }
  for (int n = 0; n < lora.n; ++n) {
    const float* b = lora.b + int64_t(n) * lora.rank;
    F sum = f_set(0);
    for (int r = 0; r < lora.rank; r += 16) {
      const int left = lora.rank - r < 16 ? lora.rank - r : 16;
      sum = f_fma(f_load_n(b + r, left), f_load_n(hidden + r, left), sum);
    }
    y[lora.column + n] += f_sum(sum);
  }
}

// The first of the largest, as torch.argmax on a row without NaN.
int argmax(const float* x, int n, float* value) {
  F highest = f_set(-INFINITY);
  int i = 0;
  for (; i + 16 <= n; i += 16) highest = f_max(highest, f_load(x + i));
  float best = f_highest(highest);
  for (; i < n; ++i) best = x[i] > best ? x[i] : best;
  *value = best;
  for (i = 0; i + 16 <= n; i += 16)
    if (f_highest(f_load(x + i)) >= best) break;
  for (; i < n; ++i)
    if (x[i] >= best) return i;
  return 0;
}

// int8 products on registers alone, as many at once as a GEMM has: what the silicon can do. Returns the operations done.
int64_t multiply(int64_t rounds) {
  alignas(64) static const uint8_t bytes[64] = {129, 127, 130};
  I c[kRows][kVectors];
  for (auto& row : c)
    for (I& sum : row) sum = i_set(0);
  const W w = w_load(bytes);
  for (int64_t i = 0; i < rounds; ++i) {
    UNROLL for (int m = 0; m < kRows; ++m)
      UNROLL for (int v = 0; v < kVectors; ++v) c[m][v] = dot4_i8(c[m][v], w, int32_t(i));
  }
  int32_t sum = 0;
  for (auto& row : c)
    for (I& part : row) sum += i_sum(part);
  return rounds * kRows * kVectors * 128 + (sum == 1);
}

// Candidates in falling order (ties: the smaller token first). A heap of k with its smallest on top; a vector of 16 is looked at
// only if one of its lanes beats that smallest, which after the first few thousand tokens is rare.
LANES bool before(float a, int32_t ta, float b, int32_t tb) { return a > b || (a == b && ta < tb); }

void sift(float* value, int32_t* token, int k, int at) {
  for (;;) {
    int worst = at;
    for (int child = 2 * at + 1; child <= 2 * at + 2 && child < k; ++child)
      if (before(value[worst], token[worst], value[child], token[child])) worst = child;
    if (worst == at) return;
    const float v = value[at];
    const int32_t t = token[at];
    value[at] = value[worst], token[at] = token[worst];
    value[worst] = v, token[worst] = t;
    at = worst;
  }
}

void top_k(const float* x, int n, int k, int32_t* token, float* value, float* logsumexp) {
  for (int i = 0; i < k; ++i) value[i] = x[i], token[i] = i;
  for (int i = k / 2 - 1; i >= 0; --i) sift(value, token, k, i);
  F floor = f_set(value[0]);
  const auto offer = [&](float v, int32_t t) {
    if (!before(v, t, value[0], token[0])) return;
    value[0] = v, token[0] = t;
    sift(value, token, k, 0);
    floor = f_set(value[0]);
  };
  int i = k;
  for (; i + 16 <= n; i += 16)
    for (uint32_t mask = f_greater(f_load(x + i), floor); mask; mask &= mask - 1) offer(x[i + __builtin_ctz(mask)], i + __builtin_ctz(mask));
  for (; i < n; ++i) offer(x[i], i);
  for (int last = k - 1; last > 0; --last) {   // heap sort: the smallest goes to the end
    const float v = value[0];
    const int32_t t = token[0];
    value[0] = value[last], token[0] = token[last];
    value[last] = v, token[last] = t;
    sift(value, token, last, 0);
  }
  if (!logsumexp) return;
  const float highest = value[0];
  double total = 0;
  for (i = 0; i < n; i += 4096) {              // fp32 sums of 4,096 terms, fp64 over them
    F sum = f_set(0);
    int j = i;
    const int end = n - i < 4096 ? n : i + 4096;
    for (; j + 16 <= end; j += 16) sum = sum + f_exp(f_load(x + j) - f_set(highest));
    float rest = 0;
    for (; j < end; ++j) rest += expf(x[j] - highest);
    total += double(f_sum(sum)) + rest;
  }
  *logsumexp = highest + float(log(total));
}

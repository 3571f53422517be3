// The order of work: operations one by one, and the whole decoder as one call. Every phase is a parallel region over rows,
// panels or attention tiles; a region costs about a microsecond, so a step of 28 layers spends a third of a millisecond on them.
#include <stdlib.h>
#include <string.h>

#include <initializer_list>

#include "kernels.h"
#include "pool.h"

namespace lepton {
namespace {

// Memory that a calling thread keeps between steps, so that no step pays page faults. Grows, never shrinks.
struct Arena {
  char* memory = nullptr;
  size_t capacity = 0, used = 0;
  ~Arena() { free(memory); }
  bool reserve(size_t bytes) {
    used = 0;
    if (bytes <= capacity) return true;
    free(memory);
    memory = static_cast<char*>(aligned_alloc(64, bytes));
    capacity = memory ? bytes : 0;
    return memory != nullptr;
  }
  template <class T>
  T* take(size_t count) {
    T* at = reinterpret_cast<T*>(memory + used);
    used += (count * sizeof(T) + 63) & ~size_t(63);
    return at;
  }
};

thread_local Arena arena;

size_t rounded(size_t bytes) { return (bytes + 63) & ~size_t(63); }

struct ActivationSize {
  size_t data = 0, sums = 0, scale = 0;
  void cover(const lep_linear& w, int rows) {
    const size_t padded = size_t(rows) + size_t(kernels().rows) * 2;
    const size_t words = padded * size_t(words_of(w)), sum = padded * size_t(groups_of(w));
    data = words > data ? words : data, sums = sum > sums ? sum : sums, scale = padded;
  }
  size_t bytes() const { return rounded(data * 4) + rounded(sums * 4) + rounded(scale * 4); }
};

Activations take_activations(const ActivationSize& size) {
  Activations x{};
  x.data = arena.take<uint32_t>(size.data);
  x.sums = arena.take<int32_t>(size.sums);
  x.scale = arena.take<float>(size.scale);
  return x;
}

// The same memory, in the shape that `w` reads. Rows are spread evenly over as few tiles as hold them.
Activations shaped(Activations x, const lep_linear& w, int rows) {
  x.kind = w.kind, x.k = w.k, x.group = w.kind == LEP_INT4 ? w.group : 0, x.groups = groups_of(w), x.words = words_of(w), x.rows = rows;
  x.tiles = ceil_div(rows, kernels().rows);
  x.mr = ceil_div(rows, x.tiles);
  return x;
}

int row_tasks(int rows) { return rows < 4 * threads() ? rows : 4 * threads(); }

template <class Body>
void for_rows(int rows, Body&& body) {
  const int tasks = row_tasks(rows);
  parallel(tasks, [&](int task, int) {
    for (int row = int(int64_t(rows) * task / tasks), end = int(int64_t(rows) * (task + 1) / tasks); row < end; ++row) body(row);
  });
}

// Panels in tasks of at least 32 KiB of weights, at most 16 to a thread: long streams, and little to wait for at the end.
void gemm(const lep_linear& w, const Activations& x, float* y, int64_t stride, Epilogue epilogue) {
  const int panels = panels_of(w);
  const int64_t bytes = panel_bytes(w) * (x.tiles > 4 ? 4 : x.tiles);
  const int least = int((32768 + bytes - 1) / bytes), share = ceil_div(panels, 16 * threads());
  const int chunk = least > share ? least : share;
  parallel(ceil_div(panels, chunk), [&](int task, int) {
    const int end = (task + 1) * chunk;
    kernels().gemm(w, x, task * chunk, end < panels ? end : panels, y, stride, epilogue);
  });
}

struct Shape {
  int heads, kv_heads, dim, window;
  float scale;
};

struct Part { int sequence, first, tokens, head, heads, begin, end, split, splits; };   // head, heads: query heads of one kv head

// Attention as tasks: (sequence, few tokens, kv head), longest contexts as they come. One-token tiles are split along the
// context while there are fewer tiles than two to a thread, so that one long sequence keeps all threads busy.
struct AttentionPlan {
  Part* parts;
  int count, split_rows;

  static int heads_of_tile(const Shape& shape) {
    const int group = shape.heads / shape.kv_heads;
    return group < kernels().attention_rows ? group : kernels().attention_rows;
  }
  static int head_tiles(const Shape& shape) { return shape.kv_heads * ceil_div(shape.heads / shape.kv_heads, heads_of_tile(shape)); }
  static size_t tiles(const lep_batch& batch, const Shape& shape) {
    const int tokens = kernels().attention_rows / heads_of_tile(shape);
    size_t count = 0;
    for (int s = 0; s < batch.sequences; ++s) count += size_t(ceil_div(batch.start[s + 1] - batch.start[s], tokens));
    return count * size_t(head_tiles(shape));
  }
  static size_t most(const lep_batch& batch, const Shape& shape) { return tiles(batch, shape) + size_t(8 * threads()); }

  void make(const lep_batch& batch, const Shape& shape) {
    const int group = shape.heads / shape.kv_heads, heads = heads_of_tile(shape), tile = kernels().attention_rows / heads;
    const size_t total = tiles(batch, shape);
    const bool may_split = total && total < size_t(2 * threads());
    const int wanted = may_split ? ceil_div(4 * threads(), int(total)) : 1;
    count = split_rows = 0;
    for (int s = 0; s < batch.sequences; ++s) {
      const int tokens = batch.start[s + 1] - batch.start[s];
      for (int first = 0; first < tokens; first += tile)
        for (int head = 0; head < shape.heads;) {
          const int left = group - head % group, n = tokens - first < tile ? tokens - first : tile;
          const int position = batch.context[s] - tokens + first, end = position + n;
          const int begin = shape.window && position + 1 > shape.window ? position + 1 - shape.window : 0;
          const int possible = (end - begin) / (2 * kStrip);
          const int splits = may_split && n == 1 && possible > 1 ? (possible < wanted ? possible : wanted) : 1;
          const int each = ceil_div(ceil_div(end - begin, splits), kStrip) * kStrip;
          for (int i = 0; i < splits; ++i) {
            const int from = begin + i * each < end ? begin + i * each : end, to = from + each < end ? from + each : end;
            parts[count++] = {s, first, n, head, left < heads ? left : heads, from, to, splits > 1 ? split_rows++ : -1, i == 0 ? splits : 0};
          }
          head += left < heads ? left : heads;
        }
    }
  }
};

struct AttentionMemory {
  char* scratch;
  size_t scratch_bytes;   // of one thread
  float *partial, *maximum, *total;
  AttentionPlan plan;
};

size_t scratch_bytes(int dim) { return rounded(size_t(kernels().attention_scratch(dim))); }
size_t split_limit() { return size_t(8 * threads()) + 2; }

size_t attention_bytes(const lep_batch& batch, const Shape& shape) {
  const size_t group = size_t(shape.heads / shape.kv_heads);
  return scratch_bytes(shape.dim) * size_t(threads()) + rounded(AttentionPlan::most(batch, shape) * sizeof(Part)) +
         rounded(split_limit() * group * size_t(shape.dim) * 4) + 2 * rounded(split_limit() * group * 4);
}

AttentionMemory take_attention(const lep_batch& batch, const Shape& shape) {
  const size_t group = size_t(shape.heads / shape.kv_heads);
  AttentionMemory m{};
  m.scratch_bytes = scratch_bytes(shape.dim);
  m.scratch = arena.take<char>(m.scratch_bytes * size_t(threads()));
  m.plan.parts = arena.take<Part>(AttentionPlan::most(batch, shape));
  m.partial = arena.take<float>(split_limit() * group * size_t(shape.dim));
  m.maximum = arena.take<float>(split_limit() * group);
  m.total = arena.take<float>(split_limit() * group);
  return m;
}

void attention(AttentionMemory& memory, const lep_kv& kv, int kv_kind, const lep_batch& batch, const Shape& shape, const float* query,
               int64_t query_stride, float* y) {
  const int group = shape.heads / shape.kv_heads;
  const int64_t out_stride = int64_t(shape.heads) * shape.dim;
  memory.plan.make(batch, shape);
  const AttentionPlan& plan = memory.plan;
  parallel(plan.count, [&](int task, int thread) {
    const Part& part = plan.parts[task];
    const int token = batch.start[part.sequence] + part.first, tokens = batch.start[part.sequence + 1] - batch.start[part.sequence];
    const int64_t column = int64_t(part.head) * shape.dim;
    AttentionTile t{};
    t.kv = &kv, t.kv_kind = kv_kind, t.kv_heads = shape.kv_heads, t.kv_head = part.head / group, t.group = part.heads, t.dim = shape.dim, t.tokens = part.tokens;
    t.next_kv_head = t.kv_head + threads() < shape.kv_heads ? t.kv_head + threads() : t.kv_head;
    t.table = batch.table + int64_t(part.sequence) * batch.table_width;
    t.query = query + token * query_stride + column, t.query_stride = query_stride;
    t.first_position = batch.context[part.sequence] - tokens + part.first;
    t.begin = part.begin, t.end = part.end, t.window = shape.window, t.scale = shape.scale;
    t.out = y + token * out_stride + column, t.out_stride = out_stride;
    if (part.split >= 0) {
      t.out = memory.partial + int64_t(part.split) * group * shape.dim;
      t.maximum = memory.maximum + part.split * group, t.total = memory.total + part.split * group;
    }
    kernels().attend(t, memory.scratch + memory.scratch_bytes * size_t(thread));
  });
  if (!plan.split_rows) return;
  for (int i = 0; i < plan.count; ++i) {
    const Part& part = plan.parts[i];
    if (part.split < 0 || !part.splits) continue;
    float* out = y + (batch.start[part.sequence] + part.first) * out_stride + int64_t(part.head) * shape.dim;
    for (int g = 0; g < part.heads; ++g)
      kernels().combine(part.splits, shape.dim, memory.partial + (int64_t(part.split) * group + g) * shape.dim, int64_t(group) * shape.dim,
                        memory.maximum + part.split * group + g, memory.total + part.split * group + g, group, out + int64_t(g) * shape.dim);
  }
}

void adapt(const lep_batch& batch, int layer, int linear, const float* x, int64_t x_stride, float* y, int64_t y_stride) {
  for (int i = 0; i < batch.adapters; ++i) {
    const lep_adapter& adapter = batch.adapter[i];
    const int first = adapter.first[layer * 4 + linear], last = adapter.first[layer * 4 + linear + 1];
    if (first == last) continue;
    for_rows(adapter.rows, [&](int index) {
      const int row = adapter.row[index];
      for (int m = first; m < last; ++m) kernels().lora_row(adapter.module[m], x + row * x_stride, y + row * y_stride);
    });
  }
}

// Buffers of a step, all (tokens, …).
struct Step {
  Activations activation;
  float *hidden, *normed, *qkv, *attended, *gated, *wide;
  AttentionMemory attention;
};

bool prepare(Step& step, const lep_model& model, const lep_batch& batch, const Shape& shape) {
  const size_t n = size_t(batch.tokens), hidden = size_t(model.hidden), ffn = size_t(model.ffn);
  const size_t query = size_t(model.heads) * size_t(model.dim), qkv = query + 2 * size_t(model.kv_heads) * size_t(model.dim);
  ActivationSize size;
  for (int i = 0; i < model.layers; ++i)
    for (const lep_linear* w : {&model.layer[i].qkv, &model.layer[i].o, &model.layer[i].gate_up, &model.layer[i].down}) size.cover(*w, batch.tokens);
  const size_t wide = batch.adapters ? 2 * ffn : 0;
  const size_t bytes = size.bytes() + 2 * rounded(n * hidden * 4) + rounded(n * qkv * 4) + rounded(n * query * 4) + rounded(n * ffn * 4) +
                       rounded(n * wide * 4) + attention_bytes(batch, shape);
  if (!arena.reserve(bytes)) return false;
  step.activation = take_activations(size);
  step.hidden = arena.take<float>(n * hidden);
  step.normed = arena.take<float>(n * hidden);
  step.qkv = arena.take<float>(n * qkv);
  step.attended = arena.take<float>(n * query);
  step.gated = arena.take<float>(n * ffn);
  step.wide = arena.take<float>(n * wide);
  step.attention = take_attention(batch, shape);
  return true;
}

void attention_block(Step& step, const lep_model& model, const lep_batch& batch, int index, const Shape& shape) {
  const Kernels& k = kernels();
  const lep_layer& layer = model.layer[index];
  const int n = batch.tokens, dim = model.dim, heads = model.heads, kv_heads = model.kv_heads;
  const int64_t query = int64_t(heads) * dim, stride = query + 2 * int64_t(kv_heads) * dim;
  Activations x = shaped(step.activation, layer.qkv, n);
  for_rows(n, [&](int row) {
    float* normed = step.normed + int64_t(row) * model.hidden;
    k.rms_norm_row(step.hidden + int64_t(row) * model.hidden, layer.attention_norm, model.hidden, model.eps, normed);
    k.pack_activation(x, row, normed);
  });
  gemm(layer.qkv, x, step.qkv, stride, kStore);
  if (batch.adapters) adapt(batch, index, 0, step.normed, model.hidden, step.qkv, stride);
  for_rows(n, [&](int row) {
    const int64_t angle = int64_t(batch.position[row]) * (model.rotary / 2);
    float* head = step.qkv + row * stride;
    for (int h = 0; h < heads + kv_heads; ++h, head += dim) {
      const float* norm = h < heads ? layer.query_norm : layer.key_norm;
      if (norm) k.rms_norm_row(head, norm, dim, model.eps, head);
      k.rope_row(head, model.cosine + angle, model.sine + angle, model.rotary);
    }
    if (batch.slot[row] < 0) return;
    const float *keys = step.qkv + row * stride + query, *values = keys + int64_t(kv_heads) * dim;
    for (int h = 0; h < kv_heads; ++h)
      k.store_kv(layer.kv, model.kv_kind, batch.slot[row], h, kv_heads, dim, keys + int64_t(h) * dim, values + int64_t(h) * dim);
  });
  attention(step.attention, layer.kv, model.kv_kind, batch, shape, step.qkv, stride, step.attended);
  x = shaped(step.activation, layer.o, n);
  for_rows(n, [&](int row) { k.pack_activation(x, row, step.attended + row * query); });
  gemm(layer.o, x, step.hidden, model.hidden, kAdd);
  if (batch.adapters) adapt(batch, index, 1, step.attended, query, step.hidden, model.hidden);
}

void mlp_block(Step& step, const lep_model& model, const lep_batch& batch, int index) {
  const Kernels& k = kernels();
  const lep_layer& layer = model.layer[index];
  const int n = batch.tokens;
  const int64_t hidden = model.hidden, ffn = model.ffn;
  Activations x = shaped(step.activation, layer.gate_up, n);
  for_rows(n, [&](int row) {
    k.rms_norm_row(step.hidden + row * hidden, layer.mlp_norm, model.hidden, model.eps, step.normed + row * hidden);
    k.pack_activation(x, row, step.normed + row * hidden);
  });
  if (batch.adapters) {   // an adapter adds to gate and up before they meet
    gemm(layer.gate_up, x, step.wide, 2 * ffn, kStore);
    adapt(batch, index, 2, step.normed, hidden, step.wide, 2 * ffn);
    for_rows(n, [&](int row) { k.silu_mul_row(step.wide + row * 2 * ffn, model.ffn, step.gated + row * ffn); });
  } else {
    gemm(layer.gate_up, x, step.gated, ffn, kSiluMul);
  }
  x = shaped(step.activation, layer.down, n);
  for_rows(n, [&](int row) { k.pack_activation(x, row, step.gated + row * ffn); });
  gemm(layer.down, x, step.hidden, hidden, kAdd);
  if (batch.adapters) adapt(batch, index, 3, step.gated, ffn, step.hidden, hidden);
}

}  // namespace
}  // namespace lepton

using namespace lepton;

extern "C" {

int32_t lep_forward(const lep_model* model, const lep_batch* batch, float* y) {
  if (!batch->tokens) return 0;
  const Shape unlimited{model->heads, model->kv_heads, model->dim, 0, model->attention_scale};
  Step step;
  if (!prepare(step, *model, *batch, unlimited)) return -1;
  for_rows(batch->tokens, [&](int row) {
    kernels().embed_row(model->embedding, model->embedding_kind, batch->token[row], model->hidden, step.hidden + int64_t(row) * model->hidden);
  });
  for (int i = 0; i < model->layers; ++i) {
    const Shape shape{model->heads, model->kv_heads, model->dim, model->layer[i].window, model->attention_scale};
    attention_block(step, *model, *batch, i, shape);
    mlp_block(step, *model, *batch, i);
  }
  for_rows(batch->tokens, [&](int row) {
    kernels().rms_norm_row(step.hidden + int64_t(row) * model->hidden, model->final_norm, model->hidden, model->eps, y + int64_t(row) * model->hidden);
  });
  return 0;
}

int32_t lep_linear_forward(const lep_linear* w, const float* x, int32_t rows, float* y) {
  if (!rows) return 0;
  ActivationSize size;
  size.cover(*w, rows);
  if (!arena.reserve(size.bytes())) return -1;
  const Activations packed = shaped(take_activations(size), *w, rows);
  for_rows(rows, [&](int row) { kernels().pack_activation(packed, row, x + int64_t(row) * w->k); });
  gemm(*w, packed, y, w->n, kStore);
  return 0;
}

int32_t lep_attention(const lep_kv* kv, int32_t kv_kind, const float* query, const lep_batch* batch, int32_t heads, int32_t kv_heads, int32_t dim,
                      float scale, int32_t window, float* y) {
  if (!batch->tokens) return 0;
  const Shape shape{heads, kv_heads, dim, window, scale};
  if (!arena.reserve(attention_bytes(*batch, shape))) return -1;
  AttentionMemory memory = take_attention(*batch, shape);
  attention(memory, *kv, kv_kind, *batch, shape, query, int64_t(heads) * dim, y);
  return 0;
}

void lep_lora_forward(const lep_lora* lora, const float* x, const int32_t* row, int32_t rows, float* y, int32_t stride) {
  for_rows(rows, [&](int i) { kernels().lora_row(*lora, x + int64_t(row[i]) * lora->k, y + int64_t(row[i]) * stride); });
}

void lep_quantize_rows(const float* x, int32_t rows, int32_t columns, int8_t* q, float* scale) {
  for_rows(rows, [&](int row) { kernels().quantize_row(x + int64_t(row) * columns, columns, q + int64_t(row) * columns, scale + row); });
}

void lep_quantize_int4(const float* x, int32_t rows, int32_t columns, int32_t group, uint8_t* q, float* scale) {
  for_rows(rows, [&](int row) {
    const int64_t at = int64_t(row) * columns;
    kernels().quantize_int4_row(x + at, columns, group, q + at, scale + int64_t(row) * ceil_div(columns, group));
  });
}

void lep_rms_norm(float* residual, const float* x, const float* weight, int32_t rows, int32_t columns, float eps, float* y) {
  for_rows(rows, [&](int row) {
    const int64_t at = int64_t(row) * columns;
    if (residual) kernels().add_row(residual + at, x + at, columns);
    kernels().rms_norm_row((residual ? residual : x) + at, weight, columns, eps, y + at);
  });
}

void lep_silu_mul(const float* x, int32_t rows, int32_t columns, float* y) {
  for_rows(rows, [&](int row) { kernels().silu_mul_row(x + int64_t(row) * 2 * columns, columns, y + int64_t(row) * columns); });
}

void lep_rope(float* x, const int32_t* position, const float* cosine, const float* sine, int32_t tokens, int32_t heads, int32_t dim, int32_t rotary) {
  for_rows(tokens, [&](int row) {
    const int64_t angle = int64_t(position[row]) * (rotary / 2);
    for (int h = 0; h < heads; ++h) kernels().rope_row(x + (int64_t(row) * heads + h) * dim, cosine + angle, sine + angle, rotary);
  });
}

void lep_store_kv(const lep_kv* kv, int32_t kv_kind, const float* keys, const float* values, const int64_t* slot, int32_t tokens, int32_t kv_heads, int32_t dim) {
  for_rows(tokens, [&](int row) {
    if (slot[row] < 0) return;
    for (int h = 0; h < kv_heads; ++h) {
      const int64_t at = (int64_t(row) * kv_heads + h) * dim;
      kernels().store_kv(*kv, kv_kind, slot[row], h, kv_heads, dim, keys + at, values + at);
    }
  });
}

void lep_argmax(const float* logits, int32_t rows, int32_t vocab, int32_t* token, float* value) {
  for_rows(rows, [&](int row) { token[row] = kernels().argmax(logits + int64_t(row) * vocab, vocab, value + row); });
}

void lep_top_k(const float* logits, int32_t rows, int32_t vocab, int32_t k, int32_t* token, float* value, float* logsumexp) {
  for_rows(rows, [&](int row) {
    kernels().top_k(logits + int64_t(row) * vocab, vocab, k, token + int64_t(row) * k, value + int64_t(row) * k, logsumexp ? logsumexp + row : nullptr);
  });
}

}  // extern "C"

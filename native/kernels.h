// The table of kernels that every instruction set fills (kernels.cpp, compiled once per set), and what passes between phases.
#pragma once
#include "lepton_cpu.h"

namespace lepton {

constexpr int kPanel = 32;   // output channels of a panel of packed weights, and slots of a KV block
constexpr int kStrip = 128;  // cached tokens per round of the online softmax

// Activations as a GEMM reads them: tiles of `mr` rows; word w of row m of a tile lies at data[(tile * words + w) * mr + m].
// A word holds 1 fp32, 2 bf16 or 4 int8. int8 rows have a scale each; sums[] are row sums (int8) or sums per group (int4).
struct Activations {
  int kind, k, group, groups, words, rows, mr, tiles;
  uint32_t* data;
  int32_t* sums;
  float* scale;
};

enum Epilogue { kStore, kAdd, kSiluMul };

// Queries of `tokens` tokens of one sequence against cached tokens [begin, end) of one kv head.
struct AttentionTile {
  const lep_kv* kv;
  const int32_t* table;         // block numbers of the sequence
  const float* query;           // first row; row r is token r / group, head r % group
  float* out;                   // the same rows of the result, or of a partial one
  float *maximum, *total;       // per row, when the context is split over tasks; else null
  int64_t query_stride, out_stride;   // floats from token to token
  int kv_kind, kv_heads, kv_head, next_kv_head, group, dim, tokens;
  int first_position;           // of the first token
  int begin, end, window;
  float scale;
};

struct Kernels {
  const char* name;
  int rows;                     // largest mr
  int attention_rows;           // largest tokens * group of a tile
  int64_t (*attention_scratch)(int dim);
  void (*pack_activation)(const Activations&, int row, const float* x);
  void (*gemm)(const lep_linear&, const Activations&, int first_panel, int last_panel, float* y, int64_t stride, Epilogue);
  void (*quantize_row)(const float* x, int n, int8_t* q, float* scale);
  void (*quantize_int4_row)(const float* x, int n, int group, uint8_t* q, float* scale);
  void (*rms_norm_row)(const float* x, const float* weight, int n, float eps, float* y);
  void (*silu_mul_row)(const float* x, int n, float* y);
  void (*rope_row)(float* x, const float* cosine, const float* sine, int rotary);
  void (*add_row)(float* y, const float* x, int n);
  void (*embed_row)(const void* table, int kind, int64_t index, int n, float* y);
  void (*store_kv)(const lep_kv&, int kv_kind, int64_t slot, int kv_head, int kv_heads, int dim, const float* key, const float* value);
  void (*attend)(const AttentionTile&, void* scratch);
  void (*combine)(int parts, int dim, const float* partial, int64_t part_stride, const float* maximum, const float* total, int64_t stat_stride, float* y);
  void (*lora_row)(const lep_lora&, const float* x, float* y);
  int (*argmax)(const float* x, int n, float* value);
  int64_t (*multiply)(int64_t rounds);
  void (*top_k)(const float* x, int n, int k, int32_t* token, float* value, float* logsumexp);
};

const Kernels* kernels_avx2();
const Kernels* kernels_avx512();
const Kernels* kernels_avx512bf16();
const Kernels& kernels();    // of the set in use

inline int ceil_div(int a, int b) { return (a + b - 1) / b; }
inline int groups_of(const lep_linear& w) { return w.kind == LEP_INT4 ? ceil_div(w.k, w.group) : 1; }
inline int words_of(const lep_linear& w) {
  switch (w.kind) {
    case LEP_INT4: return groups_of(w) * w.group / 4;
    case LEP_INT8: return ceil_div(w.k, 4);
    case LEP_BF16: return ceil_div(w.k, 2);
    default: return w.k;
  }
}
inline int64_t int4_group_bytes(const lep_linear& w) { return 64 + (w.asymmetric ? 64 : 0) + int64_t(w.group) / 8 * 128; }
inline int64_t panel_bytes(const lep_linear& w) {
  return w.kind == LEP_INT4 ? groups_of(w) * int4_group_bytes(w) : int64_t(words_of(w)) * kPanel * 4;
}
inline int panels_of(const lep_linear& w) { return ceil_div(w.n, kPanel); }
inline int padded_dim(int dim) { return ceil_div(dim, kPanel) * kPanel; }

}  // namespace lepton

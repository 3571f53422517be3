// The C ABI of the CPU kernels: what Python (engine/ops/native.py, by ctypes) and the kernels agree on.
// Pointers belong to the caller and outlive the call. No torch, no exceptions, no globals but the thread pool.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

// Bump when a struct or a packed layout below changes: Python refuses a library of another version.
#define LEP_ABI 1

enum { LEP_FP32 = 0, LEP_BF16 = 1, LEP_INT8 = 2, LEP_INT4 = 3 };

// A packed weight (n, k). Panels of 32 output channels, one contiguous stream each, in steps of one 4-byte word per channel:
//   fp32  word = w[k]                    bf16  word = (w[k], w[k+1])         int8  word = w[k..k+3] + 128, as u8
//   int4  per group: 32 fp16 scales, 32 fp16 zero points (if asymmetric), then per 8 k: byte i of channel c holds q[k+i] in its low
//         and q[k+4+i] in its high nibble (16 channels in the first 64 bytes, 16 in the next)
// n is padded to 32 and k to 4 words (int4: to whole groups), with weights that add nothing.
typedef struct {
  int32_t kind, n, k, group;   // group: int4 only, a multiple of 8
  int32_t asymmetric;          // int4 only: zero points are stored; else the zero point is 8
  int32_t interleaved;         // gate and up share panels: 16 channels of gate, then the same 16 of up
  const void* data;
  const float* scale;          // int8: (n padded to 32); else null
  const float* bias;           // (n padded to 32) or null
} lep_linear;

// A low-rank adapter of one linear layer: y[rows, column : column + n] += scale * (x @ a^T) @ b^T
typedef struct {
  int32_t rank, column, n, k;
  float scale;
  const float *a, *b;          // a: (rank, k); b: (n, rank), row-major
} lep_lora;

// Keys and values of one layer: (block, kv_head, 32 slots, dim); a (block, head) tile is in the order of a packed weight:
// keys as a (32 slots, dim) panel, values as (dim, 32 slots) panels. int8 tiles hold value + 128, with one scale per (token, head).
typedef struct {
  void *keys, *values;
  float *key_scales, *value_scales;   // (block, kv_head, 32); null unless int8
} lep_kv;

typedef struct {
  const float *attention_norm, *mlp_norm;            // (hidden)
  const float *query_norm, *key_norm;                // (dim) or null
  lep_linear qkv, o, gate_up, down;
  lep_kv kv;
  int32_t window;                                    // sliding window in tokens; 0: all
} lep_layer;

typedef struct {
  int32_t layers, hidden, heads, kv_heads, dim, ffn, vocab;
  int32_t kv_kind;                                   // LEP_FP32, LEP_BF16 or LEP_INT8
  int32_t rotary;                                    // leading dimensions that rotate, in halves
  float eps, attention_scale;
  int32_t embedding_kind;                            // LEP_FP32 or LEP_BF16
  const void* embedding;                             // (vocab, hidden) row-major
  const float *cosine, *sine;                        // (positions, rotary / 2)
  const float* final_norm;
  const lep_layer* layer;
} lep_model;

// Adapters of a step: of layer i and linear j (0 qkv, 1 o, 2 gate_up, 3 down) modules first[i * 4 + j] .. first[i * 4 + j + 1].
typedef struct {
  int32_t rows;
  const int32_t* row;          // rows of the step that this adapter serves
  const int32_t* first;        // (layers * 4 + 1)
  const lep_lora* module;
} lep_adapter;

// Tokens of one step, sequence by sequence. Decode and prefill chunks mix freely.
typedef struct {
  int32_t tokens, sequences, table_width, adapters;
  const int32_t* token;        // (tokens) ids
  const int32_t* position;     // (tokens)
  const int64_t* slot;         // (tokens) block * 32 + offset, where its key and value go; -1: nowhere
  const int32_t* start;        // (sequences + 1) first token of each sequence
  const int32_t* context;      // (sequences) tokens that are in the cache after this step
  const int32_t* table;        // (sequences, table_width) block numbers
  const lep_adapter* adapter;
} lep_batch;

int32_t lep_abi(void);
const char* lep_isa(void);                    // "avx2", "avx512", "avx512bf16" or "" where this CPU has none of them
int32_t lep_select_isa(const char* name);     // 0 if done; for tests and LEPTON_ISA
void lep_set_threads(int32_t threads);
int32_t lep_threads(void);

// Packing. All sources are row-major; `data` has lep_packed_bytes() bytes, 64-byte aligned.
int64_t lep_packed_bytes(const lep_linear*);
void lep_pack_float(const lep_linear*, const float* weight, void* data);                       // fp32 and bf16
void lep_pack_int8(const lep_linear*, const int8_t* weight, void* data);
void lep_pack_int4(const lep_linear*, const uint8_t* q, const float* scale, const float* zero, void* data);   // (n, k), (n, groups) twice

// Operations, one by one. x, y: fp32, row-major. Those that return a number return 0, or -1 if memory ran out.
int32_t lep_linear_forward(const lep_linear*, const float* x, int32_t rows, float* y);
void lep_lora_forward(const lep_lora*, const float* x, const int32_t* row, int32_t rows, float* y, int32_t stride);
void lep_quantize_rows(const float* x, int32_t rows, int32_t columns, int8_t* q, float* scale);
void lep_quantize_int4(const float* x, int32_t rows, int32_t columns, int32_t group, uint8_t* q, float* scale);
void lep_rms_norm(float* residual, const float* x, const float* weight, int32_t rows, int32_t columns, float eps, float* y);
void lep_silu_mul(const float* x, int32_t rows, int32_t columns, float* y);                    // x: (rows, 2 * columns)
void lep_rope(float* x, const int32_t* position, const float* cosine, const float* sine, int32_t tokens, int32_t heads, int32_t dim, int32_t rotary);
void lep_store_kv(const lep_kv*, int32_t kv_kind, const float* keys, const float* values, const int64_t* slot, int32_t tokens, int32_t kv_heads, int32_t dim);
int32_t lep_attention(const lep_kv*, int32_t kv_kind, const float* query, const lep_batch*, int32_t heads, int32_t kv_heads, int32_t dim,
                   float scale, int32_t window, float* y);
void lep_argmax(const float* logits, int32_t rows, int32_t vocab, int32_t* token, float* value);
// The k largest of each row in falling order, and log(sum(exp(logits))): all that truncated sampling and logprobs need.
void lep_top_k(const float* logits, int32_t rows, int32_t vocab, int32_t k, int32_t* token, float* value, float* logsumexp);

// The whole decoder: y (tokens, hidden) after the final norm. Returns 0, or -1 if memory ran out.
int32_t lep_forward(const lep_model*, const lep_batch*, float* y);

// What this machine can do. Reads `bytes` with all threads and returns a checksum, so that nothing is optimised away; multiplies
// int8 on registers with all threads and returns the operations done.
uint64_t lep_read_probe(const void* data, int64_t bytes);
int64_t lep_multiply_probe(int64_t rounds);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

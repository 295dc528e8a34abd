// Times cuDNN's GRU with a given algorithm, which no framework allows.
//
// cudnn_gru BATCH TIME INPUT HIDDEN ALGORITHM DTYPE REPEATS
//   ALGORITHM: standard, persist_static, persist_dynamic, persist_small_h
//   DTYPE: float32, tf32, float16, bfloat16
// Prints {"forward": ms, "gradient": ms}, means per call, or an error message with exit code 1.

#include <cuda_runtime.h>
#include <cudnn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CUDA(call)                                                            \
  do {                                                                        \
    cudaError_t status = (call);                                              \
    if (status != cudaSuccess) {                                              \
      fprintf(stderr, "%s: %s\n", #call, cudaGetErrorString(status));         \
      exit(1);                                                                \
    }                                                                         \
  } while (0)

#define CUDNN(call)                                                           \
  do {                                                                        \
    cudnnStatus_t status = (call);                                            \
    if (status != CUDNN_STATUS_SUCCESS) {                                     \
      fprintf(stderr, "%s\n", cudnnGetErrorString(status));                   \
      exit(1);                                                                \
    }                                                                         \
  } while (0)

static void *zeros(size_t bytes) {
  void *memory = NULL;
  CUDA(cudaMalloc(&memory, bytes ? bytes : 1));
  CUDA(cudaMemset(memory, 0, bytes ? bytes : 1));
  return memory;
}

int main(int argc, char **argv) {
  if (argc != 8) {
    fprintf(stderr, "usage: %s BATCH TIME INPUT HIDDEN ALGORITHM DTYPE REPEATS\n", argv[0]);
    return 2;
  }
  const int batch = atoi(argv[1]), time = atoi(argv[2]);
  const int input = atoi(argv[3]), hidden = atoi(argv[4]), repeats = atoi(argv[7]);
  const char *algorithm = argv[5], *dtype = argv[6];

  cudnnRNNAlgo_t algo = CUDNN_RNN_ALGO_STANDARD;
  if (!strcmp(algorithm, "persist_static")) algo = CUDNN_RNN_ALGO_PERSIST_STATIC;
  if (!strcmp(algorithm, "persist_dynamic")) algo = CUDNN_RNN_ALGO_PERSIST_DYNAMIC;
  if (!strcmp(algorithm, "persist_small_h")) algo = CUDNN_RNN_ALGO_PERSIST_STATIC_SMALL_H;

  cudnnDataType_t type = CUDNN_DATA_FLOAT;
  cudnnMathType_t math = CUDNN_FMA_MATH;
  size_t width = 4;
  if (!strcmp(dtype, "tf32")) math = CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION;
  if (!strcmp(dtype, "float16")) type = CUDNN_DATA_HALF;
  if (!strcmp(dtype, "bfloat16")) type = CUDNN_DATA_BFLOAT16;
  if (type != CUDNN_DATA_FLOAT) math = CUDNN_TENSOR_OP_MATH, width = 2;

  cudnnHandle_t handle;
  CUDNN(cudnnCreate(&handle));
  cudnnDropoutDescriptor_t dropout;
  CUDNN(cudnnCreateDropoutDescriptor(&dropout));
  CUDNN(cudnnSetDropoutDescriptor(dropout, handle, 0, NULL, 0, 0));
  cudnnRNNDescriptor_t rnn;
  CUDNN(cudnnCreateRNNDescriptor(&rnn));
  CUDNN(cudnnSetRNNDescriptor_v8(rnn, algo, CUDNN_GRU, CUDNN_RNN_DOUBLE_BIAS,
                                 CUDNN_UNIDIRECTIONAL, CUDNN_LINEAR_INPUT, type,
                                 CUDNN_DATA_FLOAT, math, input, hidden, hidden, 1, dropout,
                                 CUDNN_RNN_PADDED_IO_DISABLED));
  if (algo == CUDNN_RNN_ALGO_PERSIST_DYNAMIC) CUDNN(cudnnBuildRNNDynamic(handle, rnn, batch));

  int *lengths = malloc(batch * sizeof *lengths);
  for (int i = 0; i < batch; ++i) lengths[i] = time;
  int *lengths_there = zeros(batch * sizeof *lengths);
  CUDA(cudaMemcpy(lengths_there, lengths, batch * sizeof *lengths, cudaMemcpyHostToDevice));
  cudnnRNNDataDescriptor_t xs, ys;
  CUDNN(cudnnCreateRNNDataDescriptor(&xs));
  CUDNN(cudnnCreateRNNDataDescriptor(&ys));
  CUDNN(cudnnSetRNNDataDescriptor(xs, type, CUDNN_RNN_DATA_LAYOUT_SEQ_MAJOR_PACKED, time, batch,
                                  input, lengths, NULL));
  CUDNN(cudnnSetRNNDataDescriptor(ys, type, CUDNN_RNN_DATA_LAYOUT_SEQ_MAJOR_PACKED, time, batch,
                                  hidden, lengths, NULL));
  const int sizes[3] = {1, batch, hidden}, strides[3] = {batch * hidden, hidden, 1};
  cudnnTensorDescriptor_t state;
  CUDNN(cudnnCreateTensorDescriptor(&state));
  CUDNN(cudnnSetTensorNdDescriptor(state, type, 3, sizes, strides));

  size_t weight_bytes, work_bytes, reserve_bytes;
  CUDNN(cudnnGetRNNWeightSpaceSize(handle, rnn, &weight_bytes));
  CUDNN(cudnnGetRNNTempSpaceSizes(handle, rnn, CUDNN_FWD_MODE_TRAINING, xs, &work_bytes,
                                  &reserve_bytes));
  size_t inference_bytes, none;
  CUDNN(cudnnGetRNNTempSpaceSizes(handle, rnn, CUDNN_FWD_MODE_INFERENCE, xs, &inference_bytes,
                                  &none));
  if (inference_bytes > work_bytes) work_bytes = inference_bytes;

  const size_t steps = (size_t)time * batch;
  void *x = zeros(steps * input * width), *dx = zeros(steps * input * width);
  void *y = zeros(steps * hidden * width), *dy = zeros(steps * hidden * width);
  void *h = zeros((size_t)batch * hidden * width), *dh = zeros((size_t)batch * hidden * width);
  void *weights = zeros(weight_bytes), *d_weights = zeros(weight_bytes);
  void *work = zeros(work_bytes), *reserve = zeros(reserve_bytes);

  // Small random elements: on zeros a device draws less power and runs faster.
  const size_t most = weight_bytes > steps * input * width ? weight_bytes : steps * input * width;
  unsigned char *noise = malloc(most);
  for (size_t i = 0; i < most; ++i) {
    // The high byte of an element: a random sign, and an exponent below that of 1.
    const int high = i % width == width - 1;
    const int exponent = type == CUDNN_DATA_HALF ? 0x28 : 0x3c;
    noise[i] = high ? (unsigned char)((rand() & 0x80) | exponent) : (unsigned char)rand();
  }
  CUDA(cudaMemcpy(x, noise, steps * input * width, cudaMemcpyHostToDevice));
  CUDA(cudaMemcpy(dy, noise, steps * (input < hidden ? input : hidden) * width,
                  cudaMemcpyHostToDevice));
  CUDA(cudaMemcpy(weights, noise, weight_bytes, cudaMemcpyHostToDevice));

  cudaEvent_t begin, end;
  CUDA(cudaEventCreate(&begin));
  CUDA(cudaEventCreate(&end));
  float milliseconds[2];
  for (int gradient = 0; gradient < 2; ++gradient) {
    const cudnnForwardMode_t mode = gradient ? CUDNN_FWD_MODE_TRAINING : CUDNN_FWD_MODE_INFERENCE;
    for (int run = -3; run < repeats; ++run) {
      if (!run) CUDA(cudaEventRecord(begin, 0));
      CUDNN(cudnnRNNForward(handle, rnn, mode, lengths_there, xs, x, ys, y, state, h, NULL, NULL,
                            NULL, NULL, weight_bytes, weights, work_bytes, work,
                            gradient ? reserve_bytes : 0, gradient ? reserve : NULL));
      if (!gradient) continue;
      CUDNN(cudnnRNNBackwardData_v8(handle, rnn, lengths_there, ys, y, dy, xs, dx, state, h, NULL,
                                    dh, NULL, NULL, NULL, NULL, weight_bytes, weights, work_bytes,
                                    work, reserve_bytes, reserve));
      // The call accumulates into d_weights.
      CUDA(cudaMemsetAsync(d_weights, 0, weight_bytes, 0));
      CUDNN(cudnnRNNBackwardWeights_v8(handle, rnn, CUDNN_WGRAD_MODE_ADD, lengths_there, xs, x,
                                       state, h, ys, y, weight_bytes, d_weights, work_bytes, work,
                                       reserve_bytes, reserve));
    }
    CUDA(cudaEventRecord(end, 0));
    CUDA(cudaEventSynchronize(end));
    CUDA(cudaEventElapsedTime(&milliseconds[gradient], begin, end));
  }
  printf("{\"forward\": %.6f, \"gradient\": %.6f}\n", milliseconds[0] / repeats,
         milliseconds[1] / repeats);
  return 0;
}

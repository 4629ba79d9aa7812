// ReLU and dropout in one pass each way, where TensorFlow's own operations take eight: the random bits are made where
// they are used and never written, and the way back needs the result alone, which is positive where both let through.
//
// The bits are those of TensorFlow's Philox generator (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3",
// 2011) for the same key and counter, whatever the number of threads and the width of the processor's vectors.

#include <algorithm>
#include <cstdint>
#include <cstring>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/util/work_sharder.h"

namespace distrain {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

constexpr int kRounds = 10;
constexpr int kBlocks = 4;              // made together
constexpr int kBytes = 16 * kBlocks;    // of random bits that they hold
constexpr int64_t kPart = 256 * kBytes;  // the work that a thread takes at a time, a whole number of blocks

class Philox {
 public:
  Philox(uint64_t key, uint64_t low, uint64_t high) : low_(low), high_(high) {
    uint32_t first = static_cast<uint32_t>(key), second = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < kRounds; ++round, first += 0x9E3779B9, second += 0xBB67AE85) {
      std::fill_n(keys_[round][0], kBlocks, first);
      std::fill_n(keys_[round][1], kBlocks, second);
    }
  }

  // The bits of kBlocks blocks, from block `first` on: 4 words a block.
  void Fill(int64_t first, uint32_t* words) const {
    alignas(32) uint64_t low[kBlocks], high[kBlocks];  // the counter of each
    for (int block = 0; block < kBlocks; ++block) {
      low[block] = low_ + static_cast<uint64_t>(first) + block;
      high[block] = high_ + (low[block] < low_ ? 1 : 0);
    }
    Rounds(low, high, words);
  }

 private:
  static constexpr uint32_t kFirst = 0xD2511F53, kSecond = 0xCD9E8D57;
  alignas(32) uint64_t keys_[kRounds][2][kBlocks];  // the same for all blocks, to be loaded as it is
  uint64_t low_, high_;

#ifdef __AVX2__
  static __m256i Load(const uint64_t* from) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(from)); }

  void Rounds(const uint64_t* low, const uint64_t* high, uint32_t* words) const {
    static_assert(kBlocks == 4, "64 bits of a vector for each block");
    const __m256i first = _mm256_set1_epi64x(kFirst), second = _mm256_set1_epi64x(kSecond);
    __m256i c0 = Load(low), c1 = _mm256_srli_epi64(c0, 32), c2 = Load(high), c3 = _mm256_srli_epi64(c2, 32);
    for (const auto& key : keys_) {
      // Words are in the lower halves; what is in the upper ones never reaches these.
      const __m256i p0 = _mm256_mul_epu32(c0, first), p1 = _mm256_mul_epu32(c2, second);
      c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c1), Load(key[0]));
      c1 = p1;
      c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c3), Load(key[1]));
      c3 = p0;
    }
    const __m256i c01 = _mm256_blend_epi32(c0, _mm256_slli_epi64(c1, 32), 0xAA);
    const __m256i c23 = _mm256_blend_epi32(c2, _mm256_slli_epi64(c3, 32), 0xAA);
    const __m256i even = _mm256_unpacklo_epi64(c01, c23), odd = _mm256_unpackhi_epi64(c01, c23);
    __m256i* to = reinterpret_cast<__m256i*>(words);
    _mm256_store_si256(to, _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_store_si256(to + 1, _mm256_permute2x128_si256(even, odd, 0x31));
  }
#else
  void Rounds(const uint64_t* low, const uint64_t* high, uint32_t* words) const {
    for (int block = 0; block < kBlocks; ++block) {
      uint32_t c0 = low[block], c1 = low[block] >> 32, c2 = high[block], c3 = high[block] >> 32;
      for (const auto& key : keys_) {
        const uint64_t p0 = static_cast<uint64_t>(c0) * kFirst, p1 = static_cast<uint64_t>(c2) * kSecond;
        c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ static_cast<uint32_t>(key[0][0]);
        c1 = static_cast<uint32_t>(p1);
        c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ static_cast<uint32_t>(key[1][0]);
        c3 = static_cast<uint32_t>(p0);
      }
      words[4 * block] = c0, words[4 * block + 1] = c1, words[4 * block + 2] = c2, words[4 * block + 3] = c3;
    }
  }
#endif
};

// `count` elements, at most as many as there are bits of.
template <typename T, typename Bits>
inline void Drop(const T* in, T* out, const Bits* bits, int count, Bits most, T scale) {
#pragma GCC ivdep  // `out` is `in` or apart from it
  for (int i = 0; i < count; ++i) {
    const T value = in[i];
    const T factor = bits[i] <= most ? scale : T(0);
    out[i] = (value <= 0 ? T(0) : value) * factor;  // what is no number stays none
  }
}

template <typename T, typename Bits>
void Part(const Philox& philox, const T* in, T* out, int64_t begin, int64_t end, Bits most, T scale) {
  constexpr int kElements = kBytes / sizeof(Bits);
  alignas(32) uint32_t words[kBytes / 4];
  Bits bits[kElements];
  for (int64_t i = begin; i < end; i += kElements) {
    philox.Fill(i / kElements * kBlocks, words);
    std::memcpy(bits, words, kBytes);
    if (i + kElements <= end) {
      Drop(in + i, out + i, bits, kElements, most, scale);
    } else {
      Drop(in + i, out + i, bits, static_cast<int>(end - i), most, scale);
    }
  }
}

template <typename T>
void Back(const T* in, const T* of, T* out, int64_t count, T scale) {
#pragma GCC ivdep  // `out` is `in` or apart from it
  for (int64_t i = 0; i < count; ++i) {
    const T scaled = in[i] * scale;
    out[i] = of[i] > 0 ? scaled : T(0);
  }
}

template <typename Work>
void Share(OpKernelContext* context, int64_t size, int64_t cost, const Work& work) {
  const auto& workers = *context->device()->tensorflow_cpu_worker_threads();
  tensorflow::Shard(workers.num_threads, workers.workers, (size + kPart - 1) / kPart, kPart * cost,
                    [&](int64_t first, int64_t last) { work(first * kPart, std::min(last * kPart, size)); });
}

// What is kept is divided by the share that is.
template <typename T>
T Scale(int bits, int threshold) {
  return static_cast<T>(static_cast<double>(1 << bits) / threshold);
}

template <typename T>
class ReluDropoutOp : public OpKernel {
 public:
  explicit ReluDropoutOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("bits", &bits_));
    OP_REQUIRES_OK(context, context->GetAttr("threshold", &threshold_));
    OP_REQUIRES(context, (bits_ == 8 || bits_ == 16) && threshold_ >= 1 && threshold_ <= 1 << bits_,
                absl::InvalidArgumentError("expected 8 or 16 bits, and a threshold from 1 to their number of values"));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& input = context->input(0);
    const Tensor& key = context->input(1);
    const Tensor& counter = context->input(2);
    OP_REQUIRES(context, key.NumElements() == 1 && counter.NumElements() == 2,
                absl::InvalidArgumentError("expected a key of 1 and a counter of 2 numbers"));
    Tensor* output;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, input.shape(), &output));
    const Philox philox(key.flat<tensorflow::uint64>()(0), counter.flat<tensorflow::uint64>()(0),
                        counter.flat<tensorflow::uint64>()(1));
    const T* in = input.flat<T>().data();
    T* out = output->flat<T>().data();
    const T scale = Scale<T>(bits_, threshold_);
    const int most = threshold_ - 1;
    Share(context, input.NumElements(), 4, [&](int64_t begin, int64_t end) {
      if (bits_ == 8) {
        Part<T, uint8_t>(philox, in, out, begin, end, static_cast<uint8_t>(most), scale);
      } else {
        Part<T, uint16_t>(philox, in, out, begin, end, static_cast<uint16_t>(most), scale);
      }
    });
  }

 private:
  int bits_, threshold_;
};

template <typename T>
class ReluDropoutGradOp : public OpKernel {
 public:
  explicit ReluDropoutGradOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("bits", &bits_));
    OP_REQUIRES_OK(context, context->GetAttr("threshold", &threshold_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& upstream = context->input(0);
    const Tensor& result = context->input(1);
    OP_REQUIRES(context, upstream.shape() == result.shape(),
                absl::InvalidArgumentError("expected a result and a gradient of one shape"));
    Tensor* output;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, upstream.shape(), &output));
    const T* in = upstream.flat<T>().data();
    const T* of = result.flat<T>().data();
    T* out = output->flat<T>().data();
    const T scale = Scale<T>(bits_, threshold_);
    Share(context, upstream.NumElements(), 1,
          [&](int64_t begin, int64_t end) { Back(in + begin, of + begin, out + begin, end - begin, scale); });
  }

 private:
  int bits_, threshold_;
};

absl::Status LikeItsInput(tensorflow::shape_inference::InferenceContext* context) {
  context->set_output(0, context->input(0));
  return absl::OkStatus();
}

}  // namespace

REGISTER_OP("DistrainReluDropout")
    .Input("values: T")
    .Input("key: uint64")
    .Input("counter: uint64")
    .Output("result: T")
    .Attr("T: {float, double}")
    .Attr("bits: int")
    .Attr("threshold: int")
    .SetShapeFn(LikeItsInput);

REGISTER_OP("DistrainReluDropoutGrad")
    .Input("upstream: T")
    .Input("result: T")
    .Output("gradient: T")
    .Attr("T: {float, double}")
    .Attr("bits: int")
    .Attr("threshold: int")
    .SetShapeFn(LikeItsInput);

#define DISTRAIN_REGISTER(T)                                                                                      \
  REGISTER_KERNEL_BUILDER(Name("DistrainReluDropout").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"),     \
                          ReluDropoutOp<T>);                                                                      \
  REGISTER_KERNEL_BUILDER(Name("DistrainReluDropoutGrad").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
                          ReluDropoutGradOp<T>)
DISTRAIN_REGISTER(float);
DISTRAIN_REGISTER(double);
#undef DISTRAIN_REGISTER

}  // namespace distrain

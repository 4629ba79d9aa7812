// The squared L2 norms of many tensors in one operation: for small ones TensorFlow's own take longer to start than to
// run, two for each.
//
// Sums are the same whatever the number of threads and the width of the processor's vectors, as in advance.cc.

#include <algorithm>
#include <cstring>
#include <vector>

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
using tensorflow::TensorShape;

constexpr int kLanes = 8;
constexpr int64_t kRun = 2048;         // summed in the element type
constexpr int64_t kPart = 32 * kRun;  // the work that a thread takes at a time

template <typename T>
double SumOfSquares(const T* values, int64_t count) {
  typedef T V __attribute__((vector_size(kLanes * sizeof(T))));
  double total = 0;
  for (int64_t start = 0; start < count; start += kRun) {
    const int64_t stop = std::min(start + kRun, count);
    V lanes = {};
    int64_t i = start;
    for (; i + kLanes <= stop; i += kLanes) {
      V value;
      std::memcpy(&value, values + i, sizeof(V));
      lanes += value * value;
    }
    T rest = 0;
    for (; i < stop; ++i) rest += values[i] * values[i];
    double sum = rest;
    for (int lane = 0; lane < kLanes; ++lane) sum += lanes[lane];
    total += sum;
  }
  return total;
}

struct Part {
  int tensor;
  int64_t begin;
};

template <typename T>
class SquaresOp : public OpKernel {
 public:
  explicit SquaresOp(OpKernelConstruction* context) : OpKernel(context) {}

  void Compute(OpKernelContext* context) override {
    std::vector<Part> parts;
    int64_t elements = 0;
    for (int number = 0; number < context->num_inputs(); ++number) {
      const int64_t size = context->input(number).NumElements();
      elements += size;
      for (int64_t begin = 0; begin < size; begin += kPart) parts.push_back({number, begin});
    }
    std::vector<double> sums(parts.size());
    const auto work = [&](int64_t first, int64_t last) {
      for (int64_t number = first; number < last; ++number) {
        const auto values = context->input(parts[number].tensor).flat<T>();
        const int64_t begin = parts[number].begin;
        sums[number] = SumOfSquares(values.data() + begin, std::min(kPart, values.size() - begin));
      }
    };
    const auto& workers = *context->device()->tensorflow_cpu_worker_threads();
    // Small tensors are not worth another thread.
    const int64_t cost = elements / std::max<int64_t>(1, parts.size());
    tensorflow::Shard(workers.num_threads, workers.workers, parts.size(), cost, work);

    Tensor* squares;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({context->num_inputs()}), &squares));
    std::vector<double> totals(context->num_inputs(), 0.0);
    for (size_t number = 0; number < parts.size(); ++number) totals[parts[number].tensor] += sums[number];
    auto out = squares->vec<T>();
    for (size_t number = 0; number < totals.size(); ++number) out(number) = static_cast<T>(totals[number]);
  }
};

}  // namespace

REGISTER_OP("DistrainSquares")
    .Input("tensors: N * T")
    .Output("squares: T")
    .Attr("T: {float, double}")
    .Attr("N: int >= 1")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) {
      context->set_output(0, context->Vector(context->num_inputs()));
      return absl::OkStatus();
    });

REGISTER_KERNEL_BUILDER(Name("DistrainSquares").Device(tensorflow::DEVICE_CPU).TypeConstraint<float>("T"),
                        SquaresOp<float>);
REGISTER_KERNEL_BUILDER(Name("DistrainSquares").Device(tensorflow::DEVICE_CPU).TypeConstraint<double>("T"),
                        SquaresOp<double>);

}  // namespace distrain

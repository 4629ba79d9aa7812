// One pass over a gradient where TensorFlow's own operations take many: fold it into the running mean, update the
// weights by momentum, and measure both, reading and writing each array once.
//
// Sums are the same whatever the number of threads and the width of the processor's vectors: floats are summed in 8
// lanes over 2048 elements, those sums in float64, in the order of the elements. No multiplication is fused with an
// addition (-ffp-contract=off), so that what is measured never changes what is trained.

#include <cstring>
#include <vector>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/util/work_sharder.h"

namespace distrain {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using absl::Status;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::Var;
using tensorflow::core::RefCountPtr;

constexpr int kLanes = 8;  // as many as stay in registers for all sums
constexpr int64_t kRun = 2048;        // summed in the element type
constexpr int64_t kPart = 32 * kRun;  // the work that a thread takes at a time

// What is measured, in this order.
enum Measure { kPrevious, kProduct, kTotal, kUpdate, kWeight, kMeasures };

template <typename T>
struct Lanes;
template <>
struct Lanes<float> {
  typedef float type __attribute__((vector_size(kLanes * sizeof(float))));
};
template <>
struct Lanes<double> {
  typedef double type __attribute__((vector_size(kLanes * sizeof(double))));
};

template <typename T>
struct Arrays {
  const T* gradient = nullptr;
  T* recent = nullptr;
  const T* base = nullptr;
  T* weight = nullptr;
  T* velocity = nullptr;
};

template <typename T>
struct Numbers {
  T divisor;           // of the gradient
  T keep, gain;        // recent * keep + gradient * gain
  T folded;            // the steps whose mean is base
  T rate, momentum, clip;  // of the update
};

// The passes that there are.
enum Pass { kFold = 1, kMomentum = 2, kNesterov = 4, kMeasure = 8, kHasBase = 16 };

template <typename T, int kPass, typename V>
inline __attribute__((always_inline)) void Advance(const Arrays<T>& at, const Numbers<T>& by, int64_t i, V* sums) {
  V g;
  std::memcpy(&g, at.gradient + i, sizeof(V));
  g = g / by.divisor;
  if (kPass & kFold) {
    V recent;
    std::memcpy(&recent, at.recent + i, sizeof(V));
    const V kept = recent * by.keep;
    const V gained = g * by.gain;
    V previous = recent;
    if (kPass & kHasBase) {
      V base;
      std::memcpy(&base, at.base + i, sizeof(V));
      previous = kept + base * by.folded;  // in a new window the sum before it does not count
    }
    recent = kept + gained;
    std::memcpy(at.recent + i, &recent, sizeof(V));
    if (kPass & kMeasure) {
      const V total = (kPass & kHasBase) ? previous + gained : recent;
      sums[kPrevious] += previous * previous;
      sums[kProduct] += previous * g;
      sums[kTotal] += total * total;
    }
  }
  if (kPass & kMomentum) {
    V weight, velocity;
    std::memcpy(&weight, at.weight + i, sizeof(V));
    std::memcpy(&velocity, at.velocity + i, sizeof(V));
    const V step = g * by.clip * by.rate;
    velocity = velocity * by.momentum - step;
    std::memcpy(at.velocity + i, &velocity, sizeof(V));
    const V update = (kPass & kNesterov) ? velocity * by.momentum - step : velocity;
    weight += update;
    std::memcpy(at.weight + i, &weight, sizeof(V));
    if (kPass & kMeasure) {
      sums[kUpdate] += update * update;
      sums[kWeight] += weight * weight;
    }
  }
}

// One part: elements [begin, end); adds to total [kMeasures].
template <typename T, int kPass>
void Run(const Arrays<T>& at, const Numbers<T>& by, int64_t begin, int64_t end, double* total) {
  using V = typename Lanes<T>::type;
  for (int64_t start = begin; start < end; start += kRun) {
    V sums[kMeasures] = {};
    const int64_t stop = std::min(start + kRun, end);
    int64_t i = start;
    for (; i + kLanes <= stop; i += kLanes) Advance<T, kPass>(at, by, i, sums);
    T rest[kMeasures] = {};
    for (; i < stop; ++i) Advance<T, kPass>(at, by, i, rest);
    if (kPass & kMeasure) {
      for (int m = 0; m < kMeasures; ++m) {
        double sum = rest[m];
        for (int lane = 0; lane < kLanes; ++lane) sum += sums[m][lane];
        total[m] += sum;
      }
    }
  }
}

template <typename T>
using Runner = void (*)(const Arrays<T>&, const Numbers<T>&, int64_t, int64_t, double*);

template <typename T>
Runner<T> Choose(int pass) {
  switch (pass) {
#define DISTRAIN_CASE(kPass) \
  case kPass:                \
    return Run<T, kPass>;
    DISTRAIN_CASE(kFold)
    DISTRAIN_CASE(kMomentum)
    DISTRAIN_CASE(kMomentum | kNesterov)
    DISTRAIN_CASE(kFold | kMomentum)
    DISTRAIN_CASE(kFold | kMomentum | kNesterov)
    DISTRAIN_CASE(kFold | kMeasure)
    DISTRAIN_CASE(kFold | kMeasure | kMomentum)
    DISTRAIN_CASE(kFold | kMeasure | kMomentum | kNesterov)
    DISTRAIN_CASE(kFold | kMeasure | kHasBase)
    DISTRAIN_CASE(kFold | kMeasure | kHasBase | kMomentum)
    DISTRAIN_CASE(kFold | kMeasure | kHasBase | kMomentum | kNesterov)
#undef DISTRAIN_CASE
  }
  return nullptr;
}

// The variable's buffer, its own: where something else still reads the old value, that keeps its copy.
Status OwnBuffer(OpKernelContext* context, Var* variable, const TensorShape& shape, Tensor** buffer) {
  Tensor* tensor = variable->tensor();
  if (!variable->is_initialized || tensor->shape() != shape) {
    return absl::InvalidArgumentError(absl::StrCat("expected a variable of shape ", shape.DebugString(), ", got ",
                                               tensor->shape().DebugString()));
  }
  if (!tensor->RefCountIsOne()) {
    Tensor copy;
    TF_RETURN_IF_ERROR(context->allocate_temp(tensor->dtype(), shape, &copy));
    std::memcpy(copy.data(), tensor->data(), tensor->TotalBytes());
    *tensor = copy;
  }
  *buffer = tensor;
  return absl::OkStatus();
}

template <typename T>
class AdvanceOp : public OpKernel {
 public:
  explicit AdvanceOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("fold", &fold_));
    OP_REQUIRES_OK(context, context->GetAttr("update", &update_));
    OP_REQUIRES_OK(context, context->GetAttr("nesterov", &nesterov_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& gradient = context->input(0);
    const Tensor& numbers = context->input(1);
    const bool measure = context->input(2).scalar<bool>()();
    OP_REQUIRES(context, numbers.NumElements() == 7, absl::InvalidArgumentError("expected 7 numbers"));
    const auto number = numbers.flat<T>();
    const Numbers<T> by{number(0), number(1), number(2), number(3), number(4), number(5), number(6)};
    Arrays<T> at;
    at.gradient = gradient.flat<T>().data();
    int pass = 0;
    std::vector<RefCountPtr<Var>> variables;
    std::vector<std::unique_ptr<tensorflow::mutex_lock>> locks;
    const auto open = [&](int input, const TensorShape& shape, T** data) -> Status {
      RefCountPtr<Var> variable;
      TF_RETURN_IF_ERROR(tensorflow::LookupResource(context, tensorflow::HandleFromInput(context, input), &variable));
      locks.push_back(std::make_unique<tensorflow::mutex_lock>(*variable->mu()));
      Tensor* buffer;
      TF_RETURN_IF_ERROR(OwnBuffer(context, variable.get(), shape, &buffer));
      *data = buffer->flat<T>().data();
      variables.push_back(std::move(variable));
      return absl::OkStatus();
    };
    int input = 3;
    if (fold_) {
      pass |= kFold;
      OP_REQUIRES_OK(context, open(input++, gradient.shape(), &at.recent));
    }
    if (update_) {
      pass |= kMomentum | (nesterov_ ? kNesterov : 0);
      OP_REQUIRES_OK(context, open(input++, gradient.shape(), &at.weight));
      OP_REQUIRES_OK(context, open(input++, gradient.shape(), &at.velocity));
    }
    if (measure && fold_) {
      pass |= kMeasure;
      if (input < context->num_inputs()) {
        pass |= kHasBase;
        T* data;
        OP_REQUIRES_OK(context, open(input, gradient.shape(), &data));
        at.base = data;
      }
    }
    const Runner<T> run = Choose<T>(pass);
    OP_REQUIRES(context, run != nullptr, absl::InternalError(absl::StrCat("no such pass: ", pass)));

    const int64_t size = gradient.NumElements();
    const int64_t parts = (size + kPart - 1) / kPart;
    std::vector<double> totals(parts * kMeasures, 0.0);
    const auto work = [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) {
        run(at, by, part * kPart, std::min((part + 1) * kPart, size), &totals[part * kMeasures]);
      }
    };
    const auto& workers = *context->device()->tensorflow_cpu_worker_threads();
    tensorflow::Shard(workers.num_threads, workers.workers, parts, kPart * 4, work);

    Tensor* measured;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({kMeasures}), &measured));
    auto out = measured->vec<double>();
    for (int m = 0; m < kMeasures; ++m) {
      double sum = 0;
      for (int64_t part = 0; part < parts; ++part) sum += totals[part * kMeasures + m];
      out(m) = sum;
    }
  }

 private:
  bool fold_, update_, nesterov_;
};

}  // namespace

REGISTER_OP("DistrainAdvance")
    .Input("gradient: T")
    .Input("numbers: T")
    .Input("measure: bool")
    .Input("variables: N * resource")
    .Output("measured: double")
    .Attr("T: {float, double}")
    .Attr("N: int >= 1")
    .Attr("fold: bool")
    .Attr("update: bool")
    .Attr("nesterov: bool")
    .SetIsStateful()
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) {
      context->set_output(0, context->Vector(kMeasures));
      return absl::OkStatus();
    });

REGISTER_KERNEL_BUILDER(Name("DistrainAdvance").Device(tensorflow::DEVICE_CPU).TypeConstraint<float>("T"),
                        AdvanceOp<float>);
REGISTER_KERNEL_BUILDER(Name("DistrainAdvance").Device(tensorflow::DEVICE_CPU).TypeConstraint<double>("T"),
                        AdvanceOp<double>);

}  // namespace distrain

// A model that ONNX Runtime runs, through the table of functions that is its C interface.
#include <cstdint>

#include "model.hpp"

// The table only ever grows at its end, so places in it stay what they are. It is asked for as of version 1.12, which
// had all of these; every later runtime gives it.
extern "C" {
struct OrtApiBase {
  const void* const* (*get_api)(uint32_t version);
  const char* (*get_version)();
};
const OrtApiBase* OrtGetApiBase();
}

namespace fxopt {
namespace {

constexpr uint32_t kApiVersion = 12;

enum Place : size_t {
  kGetErrorMessage = 2,
  kCreateEnv = 3,
  kCreateSession = 7,
  kRun = 9,
  kCreateSessionOptions = 10,
  kDisableCpuMemArena = 19,
  kSetSessionGraphOptimizationLevel = 23,
  kSetIntraOpNumThreads = 24,
  kSessionGetInputCount = 30,
  kSessionGetOutputCount = 31,
  kSessionGetInputName = 36,
  kSessionGetOutputName = 37,
  kCreateTensorWithDataAsOrtValue = 49,
  kGetTensorMutableData = 51,
  kGetTensorElementType = 60,
  kGetDimensionsCount = 61,
  kGetDimensions = 62,
  kGetTensorTypeAndShape = 65,
  kCreateCpuMemoryInfo = 69,
  kGetAllocatorWithDefaultOptions = 78,
  kReleaseStatus = 93,
  kReleaseValue = 96,
  kReleaseTensorTypeAndShapeInfo = 99,
  kReleaseSessionOptions = 100,
  kAddSessionConfigEntry = 130,
};

const struct {
  const char* name;
  int code;
} kElementTypes[] = {{"float32", 1}, {"uint8", 2}, {"int8", 3},     {"int16", 5},   {"int32", 6},
                     {"int64", 7},   {"bool", 9},  {"float16", 10}, {"float64", 11}};

class Runtime {
 public:
  Runtime() : table_(OrtGetApiBase()->get_api(kApiVersion)) {
    if (!table_)
      throw Failure(std::string("ONNX Runtime ") + OrtGetApiBase()->get_version() +
                    " is older than what this program needs; take lib/ from the bundle");
  }

  // Call what is at a place; the types of the arguments must be those of the interface. Raises Failure.
  template <typename... Arguments>
  void call(const std::string& doing, Place place, Arguments... arguments) const {
    void* status = reinterpret_cast<void* (*)(Arguments...)>(table_[place])(arguments...);
    if (!status) return;
    const std::string reason = reinterpret_cast<const char* (*)(void*)>(table_[kGetErrorMessage])(status);
    release(kReleaseStatus, status);
    throw Failure(doing + ": ONNX Runtime " + OrtGetApiBase()->get_version() + ": " + reason);
  }

  void release(Place place, void* object) const { reinterpret_cast<void (*)(void*)>(table_[place])(object); }

 private:
  const void* const* table_;
};

// Values of one call, released at its end.
struct Values {
  const Runtime& runtime;
  std::vector<void*> held;
  ~Values() {
    for (void* value : held)
      if (value) runtime.release(kReleaseValue, value);
  }
};

class OnnxModel : public Model {
 public:
  OnnxModel(const std::string& folder, const Interface& interface, int threads) {
    const std::string path = folder + "/model.onnx";
    const int errors = 3, arena = 1, default_memory = 0;
    void* options = nullptr;
    runtime_.call("start", kCreateEnv, errors, "fxopt", &environment_);
    runtime_.call("start", kCreateCpuMemoryInfo, arena, default_memory, &memory_);
    runtime_.call("options", kCreateSessionOptions, &options);
    runtime_.call("options", kSetIntraOpNumThreads, options, threads);
    const int level = static_cast<int>(to_number(interface.option("optimization_level", "99"), "optimization_level"));
    runtime_.call("options", kSetSessionGraphOptimizationLevel, options, level);
    if (interface.option("arena") == "0") runtime_.call("options", kDisableCpuMemArena, options);
    const std::string disabled = interface.option("disabled_optimizers");
    if (!disabled.empty())
      runtime_.call("options", kAddSessionConfigEntry, options, "optimization.disable_specified_optimizers",
                    disabled.c_str());
    runtime_.call(path, kCreateSession, environment_, path.c_str(), options, &session_);
    runtime_.release(kReleaseSessionOptions, options);
    runtime_.call("names", kGetAllocatorWithDefaultOptions, &allocator_);
    input_names_ = names(kSessionGetInputCount, kSessionGetInputName);
    output_names_ = names(kSessionGetOutputCount, kSessionGetOutputName);
    if (input_names_.size() != interface.inputs.size())
      throw Failure(path + ": it takes " + std::to_string(input_names_.size()) + " inputs, and interface.txt has " +
                    std::to_string(interface.inputs.size()));
  }

  std::vector<Tensor> run(const std::vector<Tensor>& inputs) override {
    Values given{runtime_, {}}, results{runtime_, std::vector<void*>(output_names_.size(), nullptr)};
    for (const Tensor& input : inputs) {
      int code = 0;
      for (const auto& type : kElementTypes)
        if (input.dtype().name == std::string(type.name)) code = type.code;
      given.held.push_back(nullptr);
      runtime_.call("an input", kCreateTensorWithDataAsOrtValue, memory_, static_cast<void*>(input.data()),
                    input.bytes(), input.shape().data(), input.shape().size(), code, &given.held.back());
    }
    void* run_options = nullptr;
    runtime_.call("the model", kRun, session_, run_options, input_names_.data(), given.held.data(), given.held.size(),
                  output_names_.data(), output_names_.size(), results.held.data());
    std::vector<Tensor> outputs;
    for (void* value : results.held) outputs.push_back(copy(value));
    return outputs;
  }

 private:
  std::vector<const char*> names(Place count_at, Place name_at) const {
    size_t count = 0;
    runtime_.call("names", count_at, session_, &count);
    std::vector<const char*> found(count);
    for (size_t i = 0; i < count; ++i) {
      char* name = nullptr;
      runtime_.call("names", name_at, session_, i, allocator_, &name);
      found[i] = name;  // the allocator's: it is needed as long as the session is
    }
    return found;
  }

  Tensor copy(void* value) const {
    void *info = nullptr, *data = nullptr;
    int code = 0;
    size_t rank = 0;
    runtime_.call("an output", kGetTensorTypeAndShape, value, &info);
    runtime_.call("an output", kGetTensorElementType, info, &code);
    runtime_.call("an output", kGetDimensionsCount, info, &rank);
    std::vector<int64_t> shape(rank);
    runtime_.call("an output", kGetDimensions, info, shape.data(), rank);
    runtime_.release(kReleaseTensorTypeAndShapeInfo, info);
    for (const auto& type : kElementTypes)
      if (type.code == code) {
        Tensor tensor(*find_dtype(type.name), shape);
        runtime_.call("an output", kGetTensorMutableData, value, &data);
        if (tensor.bytes()) std::memcpy(tensor.data(), data, tensor.bytes());
        return tensor;
      }
    throw Failure("an output has elements of type " + std::to_string(code) + ", which cannot be written");
  }

  Runtime runtime_;
  void *environment_ = nullptr, *memory_ = nullptr, *session_ = nullptr, *allocator_ = nullptr;  // live with the process
  std::vector<const char*> input_names_, output_names_;
};

}  // namespace

std::unique_ptr<Model> open_model(const std::string& folder, const Interface& interface, int threads) {
  return std::make_unique<OnnxModel>(folder, interface, threads);
}

}  // namespace fxopt

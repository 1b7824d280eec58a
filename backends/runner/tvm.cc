// A model that TVM compiled, through the C interface of its runtime: no exception and no C++ type crosses into it.
#include <tvm/ffi/c_api.h>

#ifdef __x86_64__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <thread>

#include "model.hpp"

namespace fxopt {
namespace {

// An owned value of the runtime.
class Value {
 public:
  Value() = default;
  Value(Value&& other) noexcept : any_(other.any_) { other.any_ = TVMFFIAny{}; }
  Value& operator=(Value&& other) noexcept {
    std::swap(any_, other.any_);
    return *this;
  }
  ~Value() {
    if (any_.type_index >= kTVMFFIStaticObjectBegin) TVMFFIObjectDecRef(any_.v_obj);
  }
  static Value of(TVMFFIObjectHandle object, int32_t type) {
    Value value;
    value.any_.type_index = type;
    value.any_.v_ptr = object;
    return value;
  }
  TVMFFIAny* address() { return &any_; }
  const TVMFFIAny& view() const { return any_; }
  TVMFFIObjectHandle object() const { return any_.v_obj; }
  bool is(int32_t type) const { return any_.type_index == type; }

 private:
  TVMFFIAny any_{};
};

TVMFFIAny text(const std::string& value) {
  TVMFFIAny any{};
  any.type_index = kTVMFFIRawStr;
  any.v_c_str = value.c_str();
  return any;
}

TVMFFIAny number(int64_t value) {
  TVMFFIAny any{};
  any.type_index = kTVMFFIInt;
  any.v_int64 = value;
  return any;
}

void check(int code, const std::string& doing) {
  if (code == 0) return;
  TVMFFIObjectHandle raised = nullptr;
  TVMFFIErrorMoveFromRaised(&raised);
  if (!raised) throw Failure(doing + ": no reason given");
  const Value error = Value::of(raised, kTVMFFIError);
  const TVMFFIByteArray message = TVMFFIErrorGetCellPtr(raised)->message;
  throw Failure(doing + ": " + last_line(std::string(message.data, message.size)));
}

Value call(const Value& function, std::vector<TVMFFIAny> arguments, const std::string& doing) {
  Value result;
  check(TVMFFIFunctionCall(function.object(), arguments.data(), static_cast<int32_t>(arguments.size()),
                           result.address()),
        doing);
  return result;
}

Value global(const std::string& name) {
  const TVMFFIByteArray bytes{name.data(), name.size()};
  TVMFFIObjectHandle found = nullptr;
  check(TVMFFIFunctionGetGlobal(&bytes, &found), name);
  if (!found) throw Failure("this build of TVM's runtime has no " + name + "; take lib/ from the bundle of the model");
  return Value::of(found, kTVMFFIFunction);
}

Value member(const Value& module, const std::string& name) {
  Value function = call(global("ffi.ModuleGetFunction"), {module.view(), text(name), number(0)}, name);
  if (!function.is(kTVMFFIFunction)) throw Failure("model.so has no function " + name);
  return function;
}

DLDataType to_code(const DType& dtype) {
  const std::string name = dtype.name;
  const uint8_t code = name == "bool" ? kDLBool : name[0] == 'f' ? kDLFloat : name[0] == 'u' ? kDLUInt : kDLInt;
  return {code, static_cast<uint8_t>(dtype.bytes * 8), 1};
}

const DType& from_code(const DLDataType& code) {
  for (const DType& dtype : kDTypes) {
    const DLDataType known = to_code(dtype);
    if (known.code == code.code && known.bits == code.bits && code.lanes == 1) return dtype;
  }
  throw Failure("an output has a dtype that cannot be written: code " + std::to_string(code.code) + " of " +
                std::to_string(code.bits) + " bits");
}

// The tensor as the runtime takes it, on the same memory.
Value lend(const Tensor& tensor) {
  auto* managed = new DLManagedTensor{};
  managed->dl_tensor.data = tensor.data();
  managed->dl_tensor.device = {kDLCPU, 0};
  managed->dl_tensor.ndim = static_cast<int32_t>(tensor.shape().size());
  managed->dl_tensor.dtype = to_code(tensor.dtype());
  managed->dl_tensor.shape = const_cast<int64_t*>(tensor.shape().data());
  managed->deleter = [](DLManagedTensor* self) { delete self; };
  TVMFFIObjectHandle object = nullptr;
  check(TVMFFITensorFromDLPack(managed, 64, 1, &object), "an input");
  return Value::of(object, kTVMFFITensor);
}

Tensor copy(const Value& value) {
  const DLTensor& from = *TVMFFITensorGetDLTensorPtr(value.object());
  Tensor tensor(from_code(from.dtype), {from.shape, from.shape + from.ndim});
  if (tensor.bytes()) std::memcpy(tensor.data(), static_cast<const char*>(from.data) + from.byte_offset, tensor.bytes());
  return tensor;
}

// Ask the system for the tile registers of AMX, which a process has only then, before it has threads.
void need_tiles() {
#ifdef __x86_64__
  const long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  if (syscall(SYS_arch_prctl, request, tile_data) == 0) return;
#endif
  throw Failure("the model multiplies in the tile registers of AMX, which this system does not give to a process\n"
                "  build it for a target whose features lack amx-int8");
}

// Have the pool hold a thread a core or as many as wanted, run so many of them, and leave to the system where.
void use_threads(int count) {
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  setenv("TVM_NUM_THREADS", std::to_string(count > cores ? count : cores).c_str(), 1);
  setenv("TVM_BIND_THREADS", "0", 0);
  const int64_t big_cores = 1;  // as TVM calls what is neither bound nor saving power
  call(global("runtime.config_threadpool"), {number(big_cores), number(count)}, "the threads");
}

class TvmModel : public Model {
 public:
  TvmModel(const std::string& folder, const Interface& interface, int threads) {
    if (interface.option("integer_instruction") == "amx-int8") need_tiles();
    use_threads(threads);
    const std::string library = folder + "/model.so", parameters = folder + "/model.params";
    library_ = call(global("ffi.ModuleLoadFromFile"), {text(library)}, library);
    machine_ = call(member(library_, "vm_load_executable"), {}, library);
    const int64_t pooled = 2;  // memory is kept for the next call
    call(member(machine_, "vm_initialization"), {number(kDLCPU), number(0), number(pooled)}, library);
    main_ = member(machine_, "main");
    const Value stored = call(global("runtime.LoadParamsFromFile"), {text(parameters)}, parameters);
    for (Value found; (found = take(stored, "p", parameters_.size())).is(kTVMFFITensor);)
      parameters_.push_back(std::move(found));
    // "fixed" is the same model for the example's shapes alone, with its memory planned when it was built
    for (Value found; (found = take(stored, "shape", example_.size())).is(kTVMFFITensor);) {
      const Tensor shape = copy(found);
      const auto* sizes = reinterpret_cast<const int64_t*>(shape.data());
      example_.emplace_back(sizes + 1, sizes + shape.count());
    }
    if (!example_.empty()) fixed_ = member(machine_, "fixed");
  }

  std::vector<Tensor> run(const std::vector<Tensor>& inputs) override {
    std::vector<Value> lent;
    std::vector<TVMFFIAny> arguments;
    bool as_example = inputs.size() == example_.size();
    for (size_t i = 0; i < inputs.size(); ++i) {
      as_example = as_example && inputs[i].shape() == example_[i];
      lent.push_back(lend(inputs[i]));
      arguments.push_back(lent.back().view());
    }
    for (const Value& parameter : parameters_) arguments.push_back(parameter.view());
    const Value result = call(as_example ? fixed_ : main_, std::move(arguments), "the model");
    std::vector<Tensor> outputs;
    const int64_t count = call(size_of_, {result.view()}, "the outputs").view().v_int64;
    for (int64_t i = 0; i < count; ++i) outputs.push_back(copy(call(item_of_, {result.view(), number(i)}, "an output")));
    return outputs;
  }

 private:
  // The tensor under a numbered name; nothing where there is none.
  static Value take(const Value& stored, const std::string& name, size_t index) {
    const std::string key = name + std::to_string(index);
    if (call(global("ffi.MapCount"), {stored.view(), text(key)}, key).view().v_int64 == 0) return {};
    return call(global("ffi.MapGetItem"), {stored.view(), text(key)}, key);
  }

  Value size_of_ = global("ffi.ArraySize"), item_of_ = global("ffi.ArrayGetItem");
  Value library_, machine_, main_, fixed_;  // functions go before what they are functions of
  std::vector<Value> parameters_;
  std::vector<std::vector<int64_t>> example_;
};

}  // namespace

std::unique_ptr<Model> open_model(const std::string& folder, const Interface& interface, int threads) {
  return std::make_unique<TvmModel>(folder, interface, threads);
}

}  // namespace fxopt

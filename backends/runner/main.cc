// Runs a compiled model on files of inputs, without Python.
#include <sched.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>

#include "npy.hpp"
#include "options.hpp"
#include "timing.hpp"

namespace fxopt {
namespace {

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

Tensor made_up(const Input& input) {
  Tensor tensor(*input.dtype, input.example);
  const std::string name = input.dtype->name;
  for (size_t i = 0; i < tensor.count(); ++i) {
    const int step = static_cast<int>(i % 257) - 128;  // of 1/128: exact in every float type
    const float value = static_cast<float>(step) / 128;
    const double wide = value;
    if (name == "float32") std::memcpy(tensor.data() + 4 * i, &value, 4);
    if (name == "float64") std::memcpy(tensor.data() + 8 * i, &wide, 8);
    if (name == "float16") {
      uint32_t bits;
      std::memcpy(&bits, &value, 4);
      const uint32_t exponent = (bits >> 23 & 255) - 112;  // from a bias of 127 to one of 15
      const auto half = static_cast<uint16_t>(step ? (bits >> 16 & 0x8000) | exponent << 10 | (bits >> 13 & 1023) : 0);
      std::memcpy(tensor.data() + 2 * i, &half, 2);
    }
  }
  return tensor;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::vector<Tensor> read_inputs(const Interface& interface, const std::vector<std::string>& paths) {
  if (!paths.empty() && paths.size() != interface.inputs.size())
    throw UsageError("the model takes " + std::to_string(interface.inputs.size()) + " input(s), got " +
                     std::to_string(paths.size()));
  std::vector<Tensor> tensors;
  std::map<std::string, int64_t> sizes;
  for (size_t i = 0; i < interface.inputs.size(); ++i) {
    const Input& input = interface.inputs[i];
    tensors.push_back(paths.empty()                ? made_up(input)
                      : ends_with(paths[i], ".npy") ? read_npy(paths[i])
                                                    : read_raw(paths[i], *input.dtype, input.example));
    check_input(interface, input, tensors.back(), sizes);
    std::printf("input  %s %s%s\n", input.name.c_str(), tensors.back().type().c_str(), paths.empty() ? ", made up" : "");
  }
  return tensors;
}

void print_output(const std::string& name, const Tensor& tensor, int limit) {
  std::printf("output %s %s", name.c_str(), tensor.type().c_str());
  const size_t shown = std::min(tensor.count(), static_cast<size_t>(limit));
  for (size_t i = 0; i < shown; ++i) std::printf("%s%s", i ? " " : ": ", tensor.text(i).c_str());
  std::printf("%s\n", shown && shown < tensor.count() ? " ..." : "");
}

void print_generated(Model& model, const Interface& interface, const Options& options) {
  using Clock = std::chrono::steady_clock;
  const std::vector<Tokens> prompts = read_prompts(options.inputs);
  const Clock::time_point begun = Clock::now();
  size_t count = 0;
  for (const Tokens& row : generate(model, interface, prompts, options.generation)) {
    count += row.size();
    std::printf("tokens");
    for (int64_t token : row) std::printf(" %lld", static_cast<long long>(token));
    std::printf("\n");
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - begun).count();
  std::printf("time   %zu tokens in %.3f s, %.0f a second\n", count, seconds, static_cast<double>(count) / seconds);
}

std::string illegal_instruction;

// A processor of the right kind without an instruction of the model: the likeliest way for a board to be the wrong one.
void on_illegal_instruction(int) {
  const ssize_t ignored = write(STDERR_FILENO, illegal_instruction.data(), illegal_instruction.size());
  static_cast<void>(ignored);
  _exit(1);
}

void run(const Options& options) {
  const Interface interface = read_interface(options.model + "/interface.txt");
  illegal_instruction = "run: this processor lacks an instruction that the model uses; it was built for " +
                        interface.target + "\n  build it for the target that describes this device\n";
  std::signal(SIGILL, on_illegal_instruction);
  const int by_default = static_cast<int>(to_number(interface.option("threads", "0"), "option threads"));
  const int threads = options.threads ? options.threads : by_default ? by_default : usable_cores();
  if (options.generation.tokens) {
    print_generated(*open_model(options.model, interface, threads), interface, options);
    return;
  }
  const std::vector<Tensor> inputs = read_inputs(interface, options.inputs);
  if (!options.out.empty()) std::filesystem::create_directories(options.out);
  const std::unique_ptr<Model> model = open_model(options.model, interface, threads);
  const std::vector<Tensor> outputs = model->run(inputs);
  if (outputs.size() != interface.outputs.size())
    throw Failure("the model gave " + std::to_string(outputs.size()) + " outputs, and interface.txt has " +
                  std::to_string(interface.outputs.size()));
  for (size_t i = 0; i < outputs.size(); ++i) {
    print_output(interface.outputs[i].name, outputs[i], options.print);
    if (!options.out.empty()) write_npy(options.out + "/output" + std::to_string(i) + ".npy", outputs[i]);
  }
  if (options.times) time_model(*model, inputs, options.times);
}

}  // namespace
}  // namespace fxopt

int main(int count, char** words) {
  try {
    const fxopt::Options options = fxopt::parse(count, words);
    if (options.help) {
      std::fputs(fxopt::kUsage, stdout);
      return 0;
    }
    fxopt::run(options);
    return 0;
  } catch (const fxopt::UsageError& error) {
    std::fprintf(stderr, "run: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "run: %s\n", error.what());
    return 1;
  } catch (...) {
    std::fputs("run: an error of an unknown kind\n", stderr);
    return 1;
  }
}

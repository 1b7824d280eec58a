// The command line of the program.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "generate.hpp"

namespace fxopt {

constexpr char kUsage[] =
    "usage: run MODEL [INPUT ...] [--out DIR] [--times N] [--threads N] [--print N]\n"
    "       run MODEL --generate N PROMPT ... [--stop TOKEN] [--temperature T] [--top-k K] [--top-p P] [--seed S]\n"
    "\n"
    "  MODEL        the folder with interface.txt\n"
    "  INPUT        a .npy file for each input, or a .raw one with the bytes of its example shape;\n"
    "               without any, numbers rise from -1 to 1 and start again, and integers are zero\n"
    "  --out DIR    write output0.npy ... here\n"
    "  --times N    time N calls, and tell the peak memory\n"
    "  --threads N  instead of the threads of the model's options, or of all cores\n"
    "  --print N    so many numbers of each output; 8 by default\n"
    "\n"
    "  --generate N      of a causal language model, up to N tokens after each prompt\n"
    "  PROMPT            token ids, as 17,4,80\n"
    "  --stop TOKEN      ends a row, as its last token; may be given several times\n"
    "  --temperature T   draw tokens, by the softmax of logits / T; 0, the default, takes the most likely one\n"
    "  --top-k K, --top-p P  draw among the K most likely, and of these the fewest with a share of P\n"
    "  --seed S          of the draws\n";

struct Options {
  std::string model, out;
  std::vector<std::string> inputs;
  int times = 0, threads = 0, print = 8;
  Generation generation;
  bool help = false;
};

inline int small_number(const std::string& text, const std::string& option, int64_t least) {
  const int64_t value = to_number(text, option);
  if (value > 1000000 || value < least)
    throw UsageError(option + ": expected " + std::to_string(least) + " to 1000000, got " + text);
  return static_cast<int>(value);
}

inline double real_number(const std::string& text, const std::string& option, double low, double high) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end || !(value >= low && value <= high))
    throw UsageError(option + ": expected a number from " + std::to_string(low) + " to " + std::to_string(high) +
                     ", got '" + text + "'");
  return value;
}

inline void set_option(Options& options, const std::string& name, const std::string& value) {
  Generation& generation = options.generation;
  if (name == "--out") options.out = value;
  if (name == "--times") options.times = small_number(value, name, 1);
  if (name == "--threads") options.threads = small_number(value, name, 1);
  if (name == "--print") options.print = small_number(value, name, 0);
  if (name == "--generate") generation.tokens = small_number(value, name, 1);
  if (name == "--stop") generation.stop.push_back(to_number(value, name));
  if (name == "--temperature") generation.temperature = real_number(value, name, 0, 1e6);
  if (name == "--top-k") generation.top_k = static_cast<size_t>(small_number(value, name, 0));
  if (name == "--top-p") generation.top_p = real_number(value, name, 1e-9, 1);
  if (name == "--seed") generation.seed = static_cast<uint64_t>(to_number(value, name));
}

inline Options parse(int count, char** words) {
  static const char* const kNames[] = {"--out",  "--times",       "--threads", "--print", "--generate",
                                       "--stop", "--temperature", "--top-k",   "--top-p", "--seed"};
  Options options;
  bool named = false;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    if (word == "--help" || word == "-h") {
      options.help = true;
    } else if (word.rfind("--", 0) == 0) {
      if (std::find(std::begin(kNames), std::end(kNames), word) == std::end(kNames))
        throw UsageError("unknown option " + word + "\n\n" + kUsage);
      if (++i == count) throw UsageError(word + " needs a value\n\n" + kUsage);
      set_option(options, word, words[i]);
    } else if (!named) {
      options.model = word;
      named = true;
    } else {
      options.inputs.push_back(word);
    }
  }
  if (!named && !options.help) throw UsageError(std::string("no folder of a model given\n\n") + kUsage);
  return options;
}

}  // namespace fxopt

// What a model takes and gives, from interface.txt: lines of words, as a program without JSON reads them.
#pragma once

#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "tensor.hpp"

namespace fxopt {

constexpr int kInterfaceVersion = 1;

struct Input {
  std::string name;
  const DType* dtype;
  std::vector<std::string> dims;  // a number, or the name of a dynamic dim
  std::vector<int64_t> example;
};

struct Output {
  std::string name, dtype;
  std::vector<int64_t> example;
};

struct Range {
  int64_t low = 0, high = INT64_MAX;
};

struct Interface {
  std::vector<Input> inputs;
  std::vector<Output> outputs;
  std::map<std::string, Range> ranges;
  std::map<std::string, std::string> options;  // of the backend
  std::string target;

  std::string option(const std::string& name, const std::string& otherwise = "") const {
    const auto found = options.find(name);
    return found == options.end() ? otherwise : found->second;
  }
};

inline int64_t to_number(const std::string& text, const std::string& where) {
  const bool digits = !text.empty() && text.size() < 19 && text.find_first_not_of("0123456789") == std::string::npos;
  if (!digits) throw UsageError(where + ": expected a number, got '" + text + "'");
  return std::stoll(text);
}

inline std::string rest_of(std::istringstream& words) {
  std::string text;
  std::getline(words >> std::ws, text);
  return text;
}

inline Interface read_interface(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw UsageError(path + ": there is no such file; the folder of the model is the one in the bundle");
  if (file.peek() == std::char_traits<char>::eof()) throw UsageError(path + ": it is empty");
  Interface interface;
  std::string line, word, name, dtype, low, high;
  for (int number = 1; std::getline(file, line); ++number) {
    const std::string where = path + ":" + std::to_string(number);
    std::istringstream words(line);
    if (!(words >> word)) continue;
    if (number == 1) {
      words >> low;
      if (word != "fxopt-interface" || to_number(low, where) != kInterfaceVersion)
        throw UsageError(where + ": not an interface of version " + std::to_string(kInterfaceVersion) +
                         "; take the program and the model from one bundle");
    } else if (word == "dim") {
      words >> name >> low >> high;
      Range& range = interface.ranges[name];
      range.low = to_number(low, where);
      if (high != "any") range.high = to_number(high, where);
    } else if (word == "input") {
      words >> name >> dtype;
      Input input{name, find_dtype(dtype), {}, {}};
      if (!input.dtype) throw UsageError(where + ": unknown dtype " + dtype);
      while (words >> word) input.dims.push_back(word);
      interface.inputs.push_back(input);
    } else if (word == "example" && !interface.inputs.empty()) {
      while (words >> word) interface.inputs.back().example.push_back(to_number(word, where));
      if (interface.inputs.back().example.size() != interface.inputs.back().dims.size())
        throw UsageError(where + ": the example has other dims than its input");
    } else if (word == "output") {
      words >> name >> dtype;
      Output output{name, dtype, {}};
      while (words >> word) output.example.push_back(to_number(word, where));
      interface.outputs.push_back(output);
    } else if (word == "option") {
      words >> name;
      interface.options[name] = rest_of(words);
    } else if (word == "target") {
      interface.target = rest_of(words);
    } else {
      throw UsageError(where + ": unknown word '" + word + "'");
    }
  }
  return interface;
}

// Raises UsageError for an input of another dtype or shape; sizes notes what each dynamic dim is in this call.
inline void check_input(const Interface& interface, const Input& input, const Tensor& given,
                        std::map<std::string, int64_t>& sizes) {
  bool fits = &given.dtype() == input.dtype && given.shape().size() == input.dims.size();
  std::string told;
  for (size_t i = 0; i < input.dims.size() && i < given.shape().size(); ++i) {
    const std::string& dim = input.dims[i];
    const int64_t got = given.shape()[i];
    if (dim.find_first_not_of("0123456789") == std::string::npos) {
      fits = fits && std::to_string(got) == dim;
      continue;
    }
    const int64_t known = sizes.emplace(dim, got).first->second;
    const auto found = interface.ranges.find(dim);
    const Range range = found == interface.ranges.end() ? Range() : found->second;
    fits = fits && known == got && got >= range.low && got <= range.high;
    told += "\n  " + dim + ": " + std::to_string(range.low) + " to " +
            (range.high == INT64_MAX ? "any" : std::to_string(range.high)) + ", " + std::to_string(known) +
            " in this call";
  }
  if (!fits)
    throw UsageError("input '" + input.name + "': expected " + type_text(input.dtype->name, input.dims) + ", got " +
                     given.type() + told);
}

}  // namespace fxopt

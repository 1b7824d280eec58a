// Tokens from a causal language model, one at a time, as fxopt.Artifact.generate makes them in Python.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "model.hpp"

namespace fxopt {

struct Generation {
  int tokens = 0;  // at most after each prompt; 0: nothing is generated
  std::vector<int64_t> stop;
  double temperature = 0, top_p = 1;  // temperature 0: the most likely token
  size_t top_k = 0;                   // 0: all tokens
  uint64_t seed = 0;
};

using Tokens = std::vector<int64_t>;

// Token ids in words such as "17,4,80".
inline std::vector<Tokens> read_prompts(const std::vector<std::string>& words) {
  std::vector<Tokens> prompts;
  for (const std::string& word : words) {
    prompts.emplace_back();
    std::istringstream parts(word + ",");
    for (std::string part; std::getline(parts, part, ',');) prompts.back().push_back(to_number(part, "prompt '" + word + "'"));
  }
  if (prompts.empty()) throw UsageError("--generate needs a prompt: token ids, as 17,4,80");
  return prompts;
}

// What the interface says of the model: ids and mask [batch, tokens], then a mask and caches of the past.
class Decoder {
 public:
  explicit Decoder(const Interface& interface) : interface_(interface) {
    const std::vector<Input>& inputs = interface.inputs;
    bool fits = inputs.size() > 3 && inputs.size() == interface.outputs.size() + 1 && inputs[0].dims.size() == 2 &&
                inputs[2].dims.size() == 2 && inputs[0].dims == inputs[1].dims && inputs[0].dims[0] == inputs[2].dims[0];
    for (size_t i = 0; i < 3 && fits; ++i) fits = std::string(inputs[i].dtype->name) == "int64";
    fits = fits && interface.outputs[0].example.size() == 3 && interface.outputs[0].dtype == "float32";
    if (!fits)
      throw UsageError("this model does not generate: it does not take tokens, a mask and a state, and give logits in "
                       "float32 and the state");
  }

  size_t vocabulary() const { return static_cast<size_t>(interface_.outputs[0].example[2]); }

  // Raises UsageError for tokens that the model does not have, and more than it has positions.
  void check(const std::vector<Tokens>& prompts, int most) const {
    size_t longest = 0;
    for (const Tokens& prompt : prompts) {
      longest = std::max(longest, prompt.size());
      for (int64_t token : prompt)
        if (token >= static_cast<int64_t>(vocabulary()))
          throw UsageError("token " + std::to_string(token) + " is not one of the model's 0 to " +
                           std::to_string(vocabulary() - 1));
    }
    const auto found = interface_.ranges.find(interface_.inputs[0].dims[1]);
    const int64_t positions = found == interface_.ranges.end() ? INT64_MAX : found->second.high;
    if (static_cast<int64_t>(longest) + most - 1 > positions)
      throw UsageError(std::to_string(longest) + " tokens and " + std::to_string(most) + " new ones are more than the " +
                       std::to_string(positions) + " positions of the model");
  }

  // The inputs after ids and mask, before the first token.
  void add_empty_state(std::vector<Tensor>& inputs, int64_t batch) const {
    const std::string &rows = interface_.inputs[2].dims[0], &past = interface_.inputs[2].dims[1];
    for (size_t i = 2; i < interface_.inputs.size(); ++i) {
      std::vector<int64_t> shape;
      for (const std::string& dim : interface_.inputs[i].dims)
        shape.push_back(dim == rows ? batch : dim == past ? 0 : to_number(dim, "the state"));
      inputs.emplace_back(*interface_.inputs[i].dtype, shape);
    }
  }

 private:
  const Interface& interface_;
};

// The token that is drawn from logits: of the top_k most likely, the fewest whose shares sum to top_p.
inline int64_t draw(const float* logits, size_t count, const Generation& how, std::mt19937_64& random) {
  if (how.temperature == 0) return std::max_element(logits, logits + count) - logits;
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  if (how.top_k && how.top_k < count) order.resize(how.top_k);
  std::vector<double> shares;
  for (size_t token : order)
    shares.push_back(std::exp((static_cast<double>(logits[token]) - static_cast<double>(logits[order[0]])) / how.temperature));
  const double total = std::accumulate(shares.begin(), shares.end(), 0.0);
  double sum = 0;
  size_t kept = 0;
  while (kept < shares.size() && sum < how.top_p * total) sum += shares[kept++];
  shares.resize(kept);
  return static_cast<int64_t>(order[std::discrete_distribution<size_t>(shares.begin(), shares.end())(random)]);
}

// Up to so many tokens after each prompt. Prompts are padded on the left; then a token of each goes in at every step.
inline std::vector<Tokens> generate(Model& model, const Interface& interface, const std::vector<Tokens>& prompts,
                                    const Generation& how) {
  const Decoder decoder(interface);
  decoder.check(prompts, how.tokens);
  const size_t batch = prompts.size(), vocabulary = decoder.vocabulary();
  size_t width = 0;
  for (const Tokens& prompt : prompts) width = std::max(width, prompt.size());
  const DType& integers = *find_dtype("int64");
  const auto rows = static_cast<int64_t>(batch);
  std::vector<Tensor> inputs;
  for (int i = 0; i < 2; ++i) inputs.emplace_back(integers, std::vector<int64_t>{rows, static_cast<int64_t>(width)});
  decoder.add_empty_state(inputs, rows);
  const auto numbers = [&](size_t input) { return reinterpret_cast<int64_t*>(inputs[input].data()); };
  for (size_t row = 0; row < batch; ++row) {
    const size_t first = width - prompts[row].size();
    std::copy(prompts[row].begin(), prompts[row].end(), numbers(0) + row * width + first);
    std::fill(numbers(1) + row * width + first, numbers(1) + (row + 1) * width, 1);
  }
  std::mt19937_64 random(how.seed);
  std::vector<Tokens> made(batch);
  std::vector<bool> going(batch, true);
  for (int step = 0; step < how.tokens; ++step) {
    std::vector<Tensor> outputs = model.run(inputs);
    const std::vector<int64_t> shape = outputs.empty() ? std::vector<int64_t>() : outputs[0].shape();
    if (outputs.size() + 1 != inputs.size() || shape.size() != 3 || shape[0] != rows || shape[1] < 1 ||
        static_cast<size_t>(shape[2]) != vocabulary)
      throw Failure("the model gave other outputs than interface.txt has");
    const auto* logits = reinterpret_cast<const float*>(outputs[0].data());
    for (int i = 0; i < 2; ++i) inputs[static_cast<size_t>(i)] = Tensor(integers, {rows, 1});
    for (size_t row = 0; row < batch; ++row) {
      const size_t last = (row + 1) * static_cast<size_t>(shape[1]) - 1;
      const int64_t token = draw(logits + last * vocabulary, vocabulary, how, random);
      if (!going[row]) continue;
      made[row].push_back(token);
      going[row] = std::find(how.stop.begin(), how.stop.end(), token) == how.stop.end();
      if (!going[row]) continue;
      numbers(0)[row] = token;
      numbers(1)[row] = 1;
    }
    if (std::find(going.begin(), going.end(), true) == going.end()) break;
    for (size_t i = 1; i < outputs.size(); ++i) inputs[i + 1] = std::move(outputs[i]);
  }
  return made;
}

}  // namespace fxopt

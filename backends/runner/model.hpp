// A compiled model, whatever runs it. Each runtime has one file that defines open_model.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "interface.hpp"

namespace fxopt {

class Model {
 public:
  virtual ~Model() = default;

  // Inputs that were checked, in the order of the interface, to outputs in its order. Raises Failure.
  virtual std::vector<Tensor> run(const std::vector<Tensor>& inputs) = 0;
};

// The model of a folder, to run in so many threads. Raises Failure where the runtime or the system refuses it.
std::unique_ptr<Model> open_model(const std::string& folder, const Interface& interface, int threads);

}  // namespace fxopt

// Reads each file that is named as the program of a bundle does, by its ending; an error that it tells is an answer.
#include <cstdio>
#include <exception>

#include "interface.hpp"
#include "npy.hpp"

int main(int count, char** words) {
  int read = 0;
  for (int i = 1; i < count; ++i) {
    const std::string path = words[i];
    try {
      if (path.size() > 4 && path.substr(path.size() - 4) == ".txt") {
        const fxopt::Interface interface = fxopt::read_interface(path);
        std::map<std::string, int64_t> sizes;
        for (const fxopt::Input& input : interface.inputs) {
          size_t bytes = fxopt::byte_count(*input.dtype, input.example);
          if (bytes < 1000000) fxopt::check_input(interface, input, fxopt::Tensor(*input.dtype, input.example), sizes);
        }
      } else {
        const fxopt::Tensor tensor = fxopt::read_npy(path);
        for (size_t at = 0; at < tensor.count() && at < 100; ++at) tensor.text(at);
      }
      ++read;
    } catch (const std::exception&) {
    }
  }
  std::printf("%d of %d are read\n", read, count - 1);
}

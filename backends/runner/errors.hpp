// What goes wrong, by whose mistake: the exit code of the program follows from it.
#pragma once

#include <stdexcept>
#include <string>

namespace fxopt {

// The command, or an input that it names, is wrong: exit code 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The model, the runtime or the system failed: exit code 1.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The last line that says something: runtimes put traces in front of it.
inline std::string last_line(const std::string& text) {
  const size_t end = text.find_last_not_of(" \t\r\n");
  if (end == std::string::npos) return "no reason given";
  const size_t before = text.find_last_of('\n', end);
  const size_t begin = before == std::string::npos ? 0 : before + 1;
  return text.substr(begin, end + 1 - begin);
}

}  // namespace fxopt

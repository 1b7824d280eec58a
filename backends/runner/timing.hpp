// How long calls take, and how much memory the process held at its peak.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "model.hpp"

namespace fxopt {

constexpr int kWarmUp = 3;  // the first calls start threads and touch memory

// The value below which a part of sorted values lies, between neighbours where it falls between them.
inline double quantile(const std::vector<double>& sorted, double part) {
  const double place = part * static_cast<double>(sorted.size() - 1);
  const size_t low = static_cast<size_t>(place), high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (place - static_cast<double>(low));
}

// Bytes; 0 where the system does not say.
inline double peak_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("VmHWM:", 0) == 0) return std::strtod(line.c_str() + 6, nullptr) * 1024;
  return 0;
}

inline void time_model(Model& model, const std::vector<Tensor>& inputs, int calls) {
  using Clock = std::chrono::steady_clock;
  for (int i = 0; i < kWarmUp; ++i) model.run(inputs);
  std::vector<double> times;
  for (int i = 0; i < calls; ++i) {
    const Clock::time_point begun = Clock::now();
    model.run(inputs);
    times.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begun).count());
  }
  std::sort(times.begin(), times.end());
  std::printf("time   median %.3f ms, quartiles %.3f to %.3f ms, of %d calls after %d\n", quantile(times, 0.5),
              quantile(times, 0.25), quantile(times, 0.75), calls, kWarmUp);
  if (const double bytes = peak_memory()) std::printf("memory %.1f MB at its peak\n", bytes / 1e6);
}

}  // namespace fxopt

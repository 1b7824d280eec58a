// A tensor in memory of its own: what a file holds, and what a model takes and gives.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "errors.hpp"

namespace fxopt {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files and models hold little-endian numbers");

struct DType {
  const char* name;   // as the manifest of an artifact writes it
  const char* descr;  // as numpy writes it in a file
  size_t bytes;
};

inline const DType kDTypes[] = {
    {"float32", "<f4", 4}, {"float64", "<f8", 8}, {"float16", "<f2", 2}, {"int8", "|i1", 1}, {"uint8", "|u1", 1},
    {"int16", "<i2", 2},   {"int32", "<i4", 4},   {"int64", "<i8", 8},   {"bool", "|b1", 1},
};

// nullptr where there is no dtype of this name.
inline const DType* find_dtype(const std::string& name) {
  for (const DType& dtype : kDTypes)
    if (name == dtype.name) return &dtype;
  return nullptr;
}

// The bytes of a tensor. Raises UsageError where they are more than memory has addresses for: a file may say anything.
inline size_t byte_count(const DType& dtype, const std::vector<int64_t>& shape) {
  size_t bytes = dtype.bytes;
  for (int64_t size : shape)
    if (size < 0 || __builtin_mul_overflow(bytes, static_cast<size_t>(size), &bytes) || bytes > PTRDIFF_MAX / 2)
      throw UsageError("a shape of that size cannot be held in memory");
  return bytes;
}

// "float32[1, 8, 8]", as fxopt writes types.
inline std::string type_text(const std::string& dtype, const std::vector<std::string>& shape) {
  std::string text = dtype + "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + shape[i];
  return text + "]";
}

inline std::string type_text(const DType& dtype, const std::vector<int64_t>& shape) {
  std::vector<std::string> words;
  for (int64_t size : shape) words.push_back(std::to_string(size));
  return type_text(dtype.name, words);
}

class Tensor {
 public:
  Tensor(const DType& dtype, std::vector<int64_t> shape)
      : dtype_(&dtype), shape_(std::move(shape)), bytes_(byte_count(dtype, shape_)) {
    // Compiled kernels load whole vectors, which wants the alignment of the widest.
    data_.reset(static_cast<uint8_t*>(std::aligned_alloc(64, (bytes_ / 64 + 1) * 64)));
    if (!data_) throw std::bad_alloc();
    std::memset(data_.get(), 0, bytes_);
  }

  const DType& dtype() const { return *dtype_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  size_t bytes() const { return bytes_; }
  size_t count() const { return bytes_ / dtype_->bytes; }
  uint8_t* data() const { return data_.get(); }
  std::string type() const { return type_text(*dtype_, shape_); }

  // One element, to print.
  std::string text(size_t index) const {
    const std::string name = dtype_->name;
    if (name == "int8") return std::to_string(read<int8_t>(index));
    if (name == "uint8" || name == "bool") return std::to_string(read<uint8_t>(index));
    if (name == "int16") return std::to_string(read<int16_t>(index));
    if (name == "int32") return std::to_string(read<int32_t>(index));
    if (name == "int64") return std::to_string(read<int64_t>(index));
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.6g",
                  name == "float32"   ? static_cast<double>(read<float>(index))
                  : name == "float64" ? read<double>(index)
                                      : from_half(read<uint16_t>(index)));
    return digits;
  }

 private:
  template <typename Number>
  Number read(size_t index) const {
    Number value;
    std::memcpy(&value, data_.get() + index * sizeof(Number), sizeof(Number));
    return value;
  }

  // Compilers of the age of a board have no half precision of their own.
  static double from_half(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double size = exponent == 31  ? (fraction ? NAN : INFINITY)
                        : exponent == 0 ? std::ldexp(fraction, -24)
                                        : std::ldexp(1024 + fraction, exponent - 25);
    return bits >> 15 ? -size : size;
  }

  struct Free {
    void operator()(uint8_t* data) const { std::free(data); }
  };

  const DType* dtype_;
  std::vector<int64_t> shape_;
  size_t bytes_;
  std::unique_ptr<uint8_t[], Free> data_;
};

}  // namespace fxopt

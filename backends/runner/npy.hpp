// Files of tensors: numpy's .npy of versions 1 to 3, and raw ones that hold the bytes alone.
#pragma once

#include <cctype>
#include <fstream>
#include <string>
#include <vector>

#include "tensor.hpp"

namespace fxopt {

inline std::ifstream open_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  // a folder opens, but cannot be read
  if (!file || file.peek() == std::char_traits<char>::eof())
    throw UsageError(path + ": there is no such file, or it is empty");
  return file;
}

inline void read_bytes(std::ifstream& file, const std::string& path, void* into, size_t bytes) {
  file.read(static_cast<char*>(into), static_cast<std::streamsize>(bytes));
  if (static_cast<size_t>(file.gcount()) != bytes)
    throw UsageError(path + ": the file ends early; expected " + std::to_string(bytes) + " bytes, got " +
                     std::to_string(file.gcount()));
}

// What stands behind a key of the header, which is a dict in Python's own text form; empty where the key is missing.
inline std::string header_value(const std::string& header, const std::string& key) {
  size_t at = header.find("'" + key + "'");
  if (at == std::string::npos || (at = header.find(':', at)) == std::string::npos) return "";
  at = header.find_first_not_of(" ", at + 1);
  if (at == std::string::npos) return "";
  const char last = header[at] == '(' ? ')' : header[at] == '\'' ? '\'' : ',';
  const size_t end = header.find(last, at + 1);
  return end == std::string::npos ? "" : header.substr(at, end - at + (last != ','));
}

inline std::vector<int64_t> header_shape(const std::string& path, const std::string& text) {
  std::vector<int64_t> shape;
  for (size_t at = 0; at < text.size();) {
    if (!std::isdigit(static_cast<unsigned char>(text[at]))) {
      if (std::string("(), L").find(text[at]) == std::string::npos) throw UsageError(path + ": no shape in its header");
      ++at;
      continue;
    }
    const size_t end = text.find_first_not_of("0123456789", at);
    if (end - at > 18) throw UsageError(path + ": a shape of that size cannot be held in memory");
    shape.push_back(std::stoll(text.substr(at, end - at)));
    at = end;
  }
  return shape;
}

inline Tensor read_npy(const std::string& path) {
  std::ifstream file = open_file(path);
  unsigned char start[8], size[4] = {0, 0, 0, 0};
  read_bytes(file, path, start, sizeof start);
  if (std::memcmp(start, "\x93NUMPY", 6) != 0 || start[6] < 1 || start[6] > 3)
    throw UsageError(path + ": not a .npy file; save one with numpy.save, or name raw bytes .raw");
  read_bytes(file, path, size, start[6] == 1 ? 2 : 4);
  const size_t length = size[0] | size[1] << 8 | size[2] << 16 | static_cast<size_t>(size[3]) << 24;
  if (length > 1 << 20) throw UsageError(path + ": its header is longer than any that numpy writes");
  std::string header(length, ' ');
  read_bytes(file, path, header.data(), length);
  const std::string written = header_value(header, "descr"), shape_text = header_value(header, "shape");
  const DType* dtype = nullptr;
  for (const DType& known : kDTypes)
    if (written == "'" + std::string(known.descr) + "'") dtype = &known;
  if (!dtype)
    throw UsageError(path + ": numbers of type " + (written.empty() ? "unknown" : written) +
                     ", which no model takes; save with array.astype(dtype, copy=False)");
  if (shape_text.empty() || shape_text[0] != '(') throw UsageError(path + ": no shape in its header");
  const std::vector<int64_t> shape = header_shape(path, shape_text);
  if (shape.size() > 1 && header_value(header, "fortran_order") != "False")
    throw UsageError(path + ": saved column by column; save with numpy.ascontiguousarray(array)");
  // before memory is taken for them: the numbers must be there
  const std::streamoff begin = file.tellg();
  const size_t expected = byte_count(*dtype, shape);
  const size_t present = static_cast<size_t>(file.seekg(0, std::ios::end).tellg() - begin);
  if (present < expected)
    throw UsageError(path + ": the file ends early; " + type_text(*dtype, shape) + " are " + std::to_string(expected) +
                     " bytes, got " + std::to_string(present));
  file.seekg(begin);
  Tensor tensor(*dtype, shape);
  read_bytes(file, path, tensor.data(), tensor.bytes());
  return tensor;
}

// A file of the bytes of a tensor and nothing else.
inline Tensor read_raw(const std::string& path, const DType& dtype, const std::vector<int64_t>& shape) {
  std::ifstream file = open_file(path);
  const auto bytes = static_cast<size_t>(file.seekg(0, std::ios::end).tellg());
  const size_t expected = byte_count(dtype, shape);  // before memory is taken for them
  if (bytes != expected)
    throw UsageError(path + ": " + type_text(dtype, shape) + " are " + std::to_string(expected) + " bytes, got " +
                     std::to_string(bytes) + "; another size of a dynamic dim needs a .npy file");
  file.seekg(0);
  Tensor tensor(dtype, shape);
  read_bytes(file, path, tensor.data(), tensor.bytes());
  return tensor;
}

inline void write_npy(const std::string& path, const Tensor& tensor) {
  std::string header = "{'descr': '" + std::string(tensor.dtype().descr) + "', 'fortran_order': False, 'shape': (";
  for (int64_t size : tensor.shape()) header += std::to_string(size) + ", ";
  header += "), }";
  header.append(63 - (header.size() + 10) % 64, ' ');  // numpy wants the numbers at a multiple of 64
  header += '\n';
  std::ofstream file(path, std::ios::binary);
  const char start[] = {'\x93', 'N', 'U', 'M', 'P', 'Y', 1, 0, static_cast<char>(header.size() & 255),
                        static_cast<char>(header.size() >> 8)};
  file.write(start, sizeof start);
  file.write(header.data(), static_cast<std::streamsize>(header.size()));
  file.write(reinterpret_cast<const char*>(tensor.data()), static_cast<std::streamsize>(tensor.bytes()));
  file.close();
  if (!file) throw Failure(path + ": cannot be written; is the disk full, or the folder read-only?");
}

}  // namespace fxopt

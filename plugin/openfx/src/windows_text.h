// SPDX-License-Identifier: Apache-2.0
// Text of Windows, which is UTF-16, and ours, which is UTF-8. Only included there.
#pragma once

#include <string>

#include <windows.h>

namespace vs3r {

inline std::wstring wide(const std::string& text) {
  std::wstring out(static_cast<size_t>(MultiByteToWideChar(CP_UTF8, 0, text.data(), static_cast<int>(text.size()), nullptr, 0)), L'\0');
  MultiByteToWideChar(CP_UTF8, 0, text.data(), static_cast<int>(text.size()), out.data(), static_cast<int>(out.size()));
  return out;
}

inline std::string narrow(const std::wstring& text) {
  const int size = static_cast<int>(text.size());
  std::string out(static_cast<size_t>(WideCharToMultiByte(CP_UTF8, 0, text.data(), size, nullptr, 0, nullptr, nullptr)), '\0');
  WideCharToMultiByte(CP_UTF8, 0, text.data(), size, out.data(), static_cast<int>(out.size()), nullptr, nullptr);
  return out;
}

}  // namespace vs3r

// SPDX-License-Identifier: Apache-2.0
// JSON as PROTOCOL.md uses it: values that keep the order of their fields and the text of their numbers, so that what
// was read can be written back byte for byte.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vs3r {

// False where it cannot be in JSON text.
bool is_utf8(std::string_view text);

class Json {
 public:
  enum class Kind { kNull, kBool, kNumber, kText, kArray, kObject };

  Json() = default;
  Json(bool value) : kind_(Kind::kBool), bool_(value) {}
  Json(int value) : Json(static_cast<int64_t>(value)) {}
  Json(int64_t value) : kind_(Kind::kNumber), text_(std::to_string(value)) {}
  Json(double value);  // must be finite
  Json(const char* value) : kind_(Kind::kText), text_(value) {}
  Json(std::string value) : kind_(Kind::kText), text_(std::move(value)) {}
  static Json object() { return Json(Kind::kObject); }
  static Json array() { return Json(Kind::kArray); }

  // False where the text is not one JSON value; `out` is then null. Nesting ends at 64.
  static bool parse(std::string_view text, Json* out);
  std::string write() const;

  Kind kind() const { return kind_; }
  bool is_null() const { return kind_ == Kind::kNull; }
  bool is_object() const { return kind_ == Kind::kObject; }
  // The field of that name; a null value where there is none or this is no object.
  const Json& operator[](std::string_view name) const;
  Json& set(std::string name, Json value);
  Json& add(Json value);
  const std::vector<Json>& items() const { return items_; }
  // Values of another kind give the second argument.
  const std::string& text(const std::string& otherwise = empty_text()) const { return kind_ == Kind::kText ? text_ : otherwise; }
  double number(double otherwise = 0) const;
  int64_t integer(int64_t otherwise = 0) const;
  bool boolean(bool otherwise = false) const { return kind_ == Kind::kBool ? bool_ : otherwise; }

 private:
  explicit Json(Kind kind) : kind_(kind) {}
  static const std::string& empty_text();
  void write_to(std::string* out) const;

  Kind kind_ = Kind::kNull;
  bool bool_ = false;
  std::string text_;
  std::vector<Json> items_;  // of an array; of an object: the values, in the order of names_
  std::vector<std::string> names_;

  friend class JsonReader;
};

}  // namespace vs3r

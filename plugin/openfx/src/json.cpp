// SPDX-License-Identifier: Apache-2.0
// Reading and writing of JSON (RFC 8259).
#include "json.h"

#include <clocale>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <locale>
#include <sstream>

namespace vs3r {
namespace {

constexpr int kDeepest = 64;

// Host programs change the C locale; numbers on the wire have points whatever it says.
double number_of(const std::string& text) {
  std::istringstream stream(text);
  stream.imbue(std::locale::classic());
  double value = 0;
  stream >> value;
  return value;
}

void write_text(const std::string& text, std::string* out) {
  *out += '"';
  for (unsigned char c : text) {
    switch (c) {
      case '"': *out += "\\\""; break;
      case '\\': *out += "\\\\"; break;
      case '\n': *out += "\\n"; break;
      case '\r': *out += "\\r"; break;
      case '\t': *out += "\\t"; break;
      default:
        if (c < 0x20) {
          char escape[8];
          std::snprintf(escape, sizeof escape, "\\u%04x", c);
          *out += escape;
        } else {
          *out += static_cast<char>(c);
        }
    }
  }
  *out += '"';
}

void append_utf8(uint32_t point, std::string* out) {
  if (point < 0x80) {
    *out += static_cast<char>(point);
  } else if (point < 0x800) {
    *out += static_cast<char>(0xC0 | point >> 6);
    *out += static_cast<char>(0x80 | (point & 0x3F));
  } else if (point < 0x10000) {
    *out += static_cast<char>(0xE0 | point >> 12);
    *out += static_cast<char>(0x80 | (point >> 6 & 0x3F));
    *out += static_cast<char>(0x80 | (point & 0x3F));
  } else {
    *out += static_cast<char>(0xF0 | point >> 18);
    *out += static_cast<char>(0x80 | (point >> 12 & 0x3F));
    *out += static_cast<char>(0x80 | (point >> 6 & 0x3F));
    *out += static_cast<char>(0x80 | (point & 0x3F));
  }
}

}  // namespace

class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : text_(text) {}

  bool whole(Json* out) {
    if (!value(out, 0)) return false;
    space();
    return at_ == text_.size();
  }

 private:
  void space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) ++at_;
  }
  bool take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool take(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  bool value(Json* out, int depth) {
    if (depth > kDeepest) return false;
    space();
    if (at_ >= text_.size()) return false;
    switch (text_[at_]) {
      case '{': return object(out, depth);
      case '[': return array(out, depth);
      case '"': out->kind_ = Json::Kind::kText; return string(&out->text_);
      case 't': *out = Json(true); return take("true");
      case 'f': *out = Json(false); return take("false");
      case 'n': *out = Json(); return take("null");
      default: return number(out);
    }
  }

  bool object(Json* out, int depth) {
    *out = Json::object();
    take('{');
    space();
    if (take('}')) return true;
    do {
      space();
      std::string name;
      if (!string(&name)) return false;
      space();
      Json item;
      if (!take(':') || !value(&item, depth + 1)) return false;
      out->set(std::move(name), std::move(item));
      space();
    } while (take(','));
    return take('}');
  }

  bool array(Json* out, int depth) {
    *out = Json::array();
    take('[');
    space();
    if (take(']')) return true;
    do {
      Json item;
      if (!value(&item, depth + 1)) return false;
      out->add(std::move(item));
      space();
    } while (take(','));
    return take(']');
  }

  bool number(Json* out) {
    size_t begin = at_;
    take('-');
    if (!take('0') && !digits()) return false;
    if (take('.') && !digits()) return false;
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      if (!digits()) return false;
    }
    out->kind_ = Json::Kind::kNumber;
    out->text_ = std::string(text_.substr(begin, at_ - begin));
    return true;
  }
  bool digits() {
    size_t begin = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    return at_ > begin;
  }

  bool string(std::string* out) {
    if (!take('"')) return false;
    out->clear();
    while (at_ < text_.size()) {
      unsigned char c = static_cast<unsigned char>(text_[at_++]);
      if (c == '"') return true;
      if (c < 0x20) return false;
      if (c != '\\') {
        *out += static_cast<char>(c);
        continue;
      }
      if (at_ >= text_.size()) return false;
      char escape = text_[at_++];
      static constexpr std::string_view kFrom = "\"\\/bfnrt", kTo = "\"\\/\b\f\n\r\t";
      if (size_t i = kFrom.find(escape); i != std::string_view::npos) {
        *out += kTo[i];
      } else if (escape == 'u') {
        uint32_t point;
        if (!hex(&point)) return false;
        if (point >= 0xD800 && point < 0xDC00) {
          uint32_t low;
          if (!take("\\u") || !hex(&low) || low < 0xDC00 || low > 0xDFFF) return false;
          point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
        }
        append_utf8(point, out);
      } else {
        return false;
      }
    }
    return false;
  }
  bool hex(uint32_t* out) {
    if (at_ + 4 > text_.size()) return false;
    *out = 0;
    for (int i = 0; i < 4; ++i) {
      char c = text_[at_++];
      uint32_t digit;
      if (c >= '0' && c <= '9') digit = static_cast<uint32_t>(c - '0');
      else if (c >= 'a' && c <= 'f') digit = static_cast<uint32_t>(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F') digit = static_cast<uint32_t>(c - 'A' + 10);
      else return false;
      *out = *out << 4 | digit;
    }
    return true;
  }

  std::string_view text_;
  size_t at_ = 0;
};

bool is_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const auto first = static_cast<unsigned char>(text[at++]);
    const int more = first < 0x80 ? 0 : first < 0xC2 ? -1 : first < 0xE0 ? 1 : first < 0xF0 ? 2 : first < 0xF5 ? 3 : -1;
    if (more < 0 || text.size() - at < static_cast<size_t>(more)) return false;
    // The second byte is narrower after four of the first ones: no overlong forms, no surrogates, nothing beyond Unicode.
    unsigned char low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80, high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    for (int i = 0; i < more; ++i, low = 0x80, high = 0xBF) {
      const auto next = static_cast<unsigned char>(text[at++]);
      if (next < low || next > high) return false;
    }
  }
  return true;
}

Json::Json(double value) : kind_(Kind::kNumber) {
  for (int precision = 1; precision <= 17; ++precision) {
    std::ostringstream stream;
    stream.imbue(std::locale::classic());
    stream.precision(precision);
    stream << value;
    text_ = stream.str();
    if (number_of(text_) == value) break;
  }
  if (text_.find_first_of(".e") == std::string::npos) text_ += ".0";
}

bool Json::parse(std::string_view text, Json* out) {
  if (JsonReader(text).whole(out)) return true;
  *out = Json();
  return false;
}

std::string Json::write() const {
  std::string out;
  write_to(&out);
  return out;
}

void Json::write_to(std::string* out) const {
  switch (kind_) {
    case Kind::kNull: *out += "null"; break;
    case Kind::kBool: *out += bool_ ? "true" : "false"; break;
    case Kind::kNumber: *out += text_; break;
    case Kind::kText: write_text(text_, out); break;
    case Kind::kArray:
    case Kind::kObject:
      *out += kind_ == Kind::kArray ? '[' : '{';
      for (size_t i = 0; i < items_.size(); ++i) {
        if (i > 0) *out += ',';
        if (kind_ == Kind::kObject) {
          write_text(names_[i], out);
          *out += ':';
        }
        items_[i].write_to(out);
      }
      *out += kind_ == Kind::kArray ? ']' : '}';
  }
}

const Json& Json::operator[](std::string_view name) const {
  static const Json absent;
  for (size_t i = 0; i < names_.size(); ++i) {
    if (names_[i] == name) return items_[i];
  }
  return absent;
}

Json& Json::set(std::string name, Json value) {
  names_.push_back(std::move(name));
  items_.push_back(std::move(value));
  return *this;
}

Json& Json::add(Json value) {
  items_.push_back(std::move(value));
  return *this;
}

double Json::number(double otherwise) const { return kind_ == Kind::kNumber ? number_of(text_) : otherwise; }

int64_t Json::integer(int64_t otherwise) const {
  return kind_ == Kind::kNumber ? static_cast<int64_t>(std::llround(number_of(text_))) : otherwise;
}

const std::string& Json::empty_text() {
  static const std::string empty;
  return empty;
}

}  // namespace vs3r

// Steals the requests that carry a given header with a given value, and marks their responses.
//
// Config: {"name": "x-user", "value": "me"}. The name is compared without regard to case, the value exactly.
// No C library: all memory is what stands here.

#include "mirrord.h"

struct text {
  char bytes[1024];
  int len;
};

static struct text name, value, why;
static char config[65536];

static void append(struct text *to, const char *bytes, int len) {
  for (int i = 0; i < len && to->len < (int)sizeof to->bytes; i++) to->bytes[to->len++] = bytes[i];
}

static int length(const char *text) {
  int len = 0;
  while (text[len]) len++;
  return len;
}

static int refuse(const char *problem) {
  static const char example[] = "; it looks like {\"name\": \"x-user\", \"value\": \"me\"}";
  why.len = 0;
  append(&why, problem, length(problem));
  append(&why, example, sizeof example - 1);
  reason(why.bytes, why.len);
  return 1;
}

static const char *skip_blanks(const char *at, const char *end) {
  while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')) at++;
  return at;
}

// Reads a JSON string at `at`; returns what follows it, or null for what is none. \u is not understood.
static const char *read_string(const char *at, const char *end, struct text *into) {
  into->len = 0;
  if (at == end || *at++ != '"') return 0;
  for (; at < end && *at != '"'; at++) {
    char byte = *at;
    if ((unsigned char)byte < ' ') return 0;
    if (byte == '\\') {
      if (++at == end || (*at != '"' && *at != '\\' && *at != '/')) return 0;
      byte = *at;
    }
    if (into->len == (int)sizeof into->bytes) return 0;
    into->bytes[into->len++] = byte;
  }
  return at < end ? at + 1 : 0;
}

static int is(const struct text *text, const char *other) {
  if (text->len != length(other)) return 0;
  for (int i = 0; i < text->len; i++)
    if (text->bytes[i] != other[i]) return 0;
  return 1;
}

static int is_header_name(const struct text *text) {
  for (int i = 0; i < text->len; i++)
    if (text->bytes[i] <= ' ' || text->bytes[i] >= 0x7f || text->bytes[i] == ':') return 0;
  return text->len > 0;
}

EXPORT(mirrord_abi_version_1) void abi_version_1(void) {}

EXPORT(mirrord_configure) int configure(void) {
  static struct text key;
  int len = get(CONFIG, config, sizeof config), has_name = 0, has_value = 0;
  if (len <= 0) return refuse("this filter needs a config");
  const char *end = config + len, *at = skip_blanks(config, end);
  if (at == end || *at != '{') return refuse("the config is not a JSON object");
  do {
    at = read_string(skip_blanks(at + 1, end), end, &key);
    if (!at) return refuse("the config is not an object of strings");
    at = skip_blanks(at, end);
    if (at == end || *at != ':') return refuse("the config is not JSON");
    struct text *field = is(&key, "name") ? &name : is(&key, "value") ? &value : 0;
    if (!field) return refuse("the config has an unknown field");
    at = read_string(skip_blanks(at + 1, end), end, field);
    if (!at) return refuse("a field of the config is not a string of at most 1024 bytes");
    has_name |= field == &name;
    has_value |= field == &value;
    at = skip_blanks(at, end);
  } while (at < end && *at == ',');
  if (at == end || *at != '}' || skip_blanks(at + 1, end) != end) return refuse("the config is not JSON");
  if (!has_name || !has_value) return refuse("the config lacks \"name\" or \"value\"");
  if (!is_header_name(&name)) return refuse("\"name\" cannot be a header's name");
  why.len = 0;
  append(&why, "header ", 7);
  append(&why, name.bytes, name.len);
  append(&why, " has the configured value", 25);
  return 0;
}

EXPORT(mirrord_on_request) int on_request(void) {
  static char own[sizeof value.bytes];
  // A client may send the header more than once; any of them counts.
  for (int nth = 0, len; (len = get_header(name.bytes, name.len, nth, own, sizeof own)) >= 0; nth++) {
    // Also so when it did not fit: a longer one is another one.
    if (len != value.len) continue;
    int same = 1;
    for (int i = 0; i < len; i++) same &= own[i] == value.bytes[i];
    if (!same) continue;
    edit_header(RESPONSE, SET, "x-mirrord-filter", 16, "header", 6);
    reason(why.bytes, why.len);
    return STEAL;
  }
  return PASS;
}

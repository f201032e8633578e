// All of mirrord's filter ABI, version 1, in C; docs/abi.md has the contract of each function. What is not used is not imported.
#ifndef MIRRORD_H
#define MIRRORD_H

#define IMPORT(name) __attribute__((import_module("mirrord"), import_name(#name)))
#define EXPORT(name) __attribute__((export_name(#name)))

// What a request hook returns.
enum { PASS, STEAL, MIRROR, RESPOND, STEAL_AND_MIRROR, ABORT, NEED_BODY };
// What `get` gives.
enum { CONFIG, METHOD, TARGET, CLIENT, DESTINATION, PROTOCOL, SERVER_NAME, ALPN, FIRST_BYTES };
// Whose headers, and how, `edit_header` edits.
enum { REQUEST, RESPONSE };
enum { SET, APPEND, REMOVE };
// Levels of `log_line`.
enum { ERROR, WARNING, INFO, DEBUG };

IMPORT(get) int get(int what, char *buf, int cap);
IMPORT(get_header) int get_header(const char *name, int name_len, int nth, char *buf, int cap);
IMPORT(get_header_at) long long get_header_at(int index, char *buf, int cap);
IMPORT(get_status) int get_status(void);
IMPORT(get_body) int get_body(int offset, char *buf, int cap);
IMPORT(get_property) int get_property(const char *name, int name_len, char *buf, int cap);

IMPORT(edit_header) void edit_header(int target, int op, const char *name, int name_len, const char *value, int value_len);
IMPORT(set_path) void set_path(const char *path, int len);
IMPORT(delay) void delay(int milliseconds);
IMPORT(respond) void respond(int status, const char *body, int body_len);
IMPORT(reason) void reason(const char *text, int len);
IMPORT(log) void log_line(int level, const char *text, int len);

IMPORT(watch_response) void watch_response(long long token);
IMPORT(watch_request_body) void watch_request_body(int window);
IMPORT(watch_response_body) void watch_response_body(int window);
IMPORT(watch_end) void watch_end(void);
IMPORT(set_token) void set_token(long long token);
IMPORT(replace_body) void replace_body(const char *bytes, int len);
IMPORT(abort) void abort_exchange(void);

IMPORT(get_state) int get_state(const char *key, int key_len, char *buf, int cap);
IMPORT(set_state) void set_state(const char *key, int key_len, const char *value, int value_len, int ttl);
IMPORT(add_state) long long add_state(const char *key, int key_len, long long delta, int ttl);
IMPORT(remove_state) void remove_state(const char *key, int key_len);
IMPORT(count) void count(const char *name, int name_len, long long delta);
IMPORT(observe) void observe(const char *name, int name_len, long long value);
IMPORT(random) long long random_bits(void);
IMPORT(now) long long now(void);

#endif

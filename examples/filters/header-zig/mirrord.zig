//! All of mirrord's filter ABI, version 1, in Zig; docs/abi.md has the contract of each function. What is not used is not imported.

/// What a request hook returns.
pub const verdict = struct {
    pub const pass = 0;
    pub const steal = 1;
    pub const mirror = 2;
    pub const respond = 3;
    pub const steal_and_mirror = 4;
    pub const abort = 5;
    pub const need_body = 6;
};

/// What `get` gives.
pub const what = struct {
    pub const config = 0;
    pub const method = 1;
    pub const target = 2;
    pub const client = 3;
    pub const destination = 4;
    pub const protocol = 5;
    pub const server_name = 6;
    pub const alpn = 7;
    pub const first_bytes = 8;
};

/// Whose headers `edit_header` edits.
pub const of = struct {
    pub const request = 0;
    pub const response = 1;
};

/// How it does.
pub const op = struct {
    pub const set = 0;
    pub const append = 1;
    pub const remove = 2;
};

/// Levels of `log`.
pub const level = struct {
    pub const err = 0;
    pub const warning = 1;
    pub const info = 2;
    pub const debug = 3;
};

pub extern "mirrord" fn get(kind: i32, buf: [*]u8, cap: usize) i32;
pub extern "mirrord" fn get_header(name: [*]const u8, name_len: usize, nth: i32, buf: [*]u8, cap: usize) i32;
pub extern "mirrord" fn get_header_at(index: i32, buf: [*]u8, cap: usize) i64;
pub extern "mirrord" fn get_status() i32;
pub extern "mirrord" fn get_body(offset: i32, buf: [*]u8, cap: usize) i32;
pub extern "mirrord" fn get_property(name: [*]const u8, name_len: usize, buf: [*]u8, cap: usize) i32;

pub extern "mirrord" fn edit_header(target: i32, how: i32, name: [*]const u8, name_len: usize, value: [*]const u8, value_len: usize) void;
pub extern "mirrord" fn set_path(path: [*]const u8, len: usize) void;
pub extern "mirrord" fn delay(milliseconds: i32) void;
pub extern "mirrord" fn respond(status: i32, body: [*]const u8, body_len: usize) void;
pub extern "mirrord" fn reason(text: [*]const u8, len: usize) void;
pub extern "mirrord" fn log(at: i32, text: [*]const u8, len: usize) void;

pub extern "mirrord" fn watch_response(token: i64) void;
pub extern "mirrord" fn watch_request_body(window: i32) void;
pub extern "mirrord" fn watch_response_body(window: i32) void;
pub extern "mirrord" fn watch_end() void;
pub extern "mirrord" fn set_token(token: i64) void;
pub extern "mirrord" fn replace_body(bytes: [*]const u8, len: usize) void;
pub extern "mirrord" fn abort() void;

pub extern "mirrord" fn get_state(key: [*]const u8, key_len: usize, buf: [*]u8, cap: usize) i32;
pub extern "mirrord" fn set_state(key: [*]const u8, key_len: usize, value: [*]const u8, value_len: usize, ttl: i32) void;
pub extern "mirrord" fn add_state(key: [*]const u8, key_len: usize, delta: i64, ttl: i32) i64;
pub extern "mirrord" fn remove_state(key: [*]const u8, key_len: usize) void;
pub extern "mirrord" fn count(name: [*]const u8, name_len: usize, delta: i64) void;
pub extern "mirrord" fn observe(name: [*]const u8, name_len: usize, value: i64) void;
pub extern "mirrord" fn random() i64;
pub extern "mirrord" fn now() i64;

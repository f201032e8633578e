//! Guests in a few lines: a module with all imports, a page of text to point at, and the hooks that a test gives.

use mirrord_filters::{Engine, Filter, Settings};

/// Text in memory: offset and length in each test come from here, by `$name`.
const TEXT: [(&str, &str); 12] = [
    ("key", "the key"),
    ("name", "x-mark"),
    ("value", "seen"),
    ("path", "/other?a=b"),
    ("counter", "hits"),
    ("histogram", "sizes"),
    ("property", "user"),
    ("evil", "a\r\nb: c"),
    ("frame", "Content-Length"),
    ("te", "transfer-encoding"),
    ("hop", "Connection"),
    ("xs", "XXXXXXXX"),
];

/// `hooks` are functions; `@name` in them becomes the offset and length of a text as two constants. Memory from 4096 on
/// is free. `(call $say (i32))` gives a number's last two decimals as the reason.
pub fn module(hooks: &str) -> Vec<u8> {
    let mut text = String::new();
    let mut hooks = hooks.to_owned();
    for (index, (name, value)) in TEXT.iter().enumerate() {
        let at = 64 * (index + 1);
        let escaped: String = value.bytes().map(|byte| format!("\\{byte:02x}")).collect();
        text += &format!("(data (i32.const {at}) \"{escaped}\")\n");
        hooks = hooks.replace(&format!("@{name} "), &format!("(i32.const {at}) (i32.const {}) ", value.len()));
    }
    let own_configure =
        if hooks.contains("mirrord_configure") { "" } else { r#"(func (export "mirrord_configure") (result i32) i32.const 0)"# };
    let own_request =
        if hooks.contains("mirrord_on_request\"") { "" } else { r#"(func (export "mirrord_on_request") (result i32) i32.const 0)"# };
    let own_memory = if hooks.contains("(memory (") { "" } else { r#"(memory (export "memory") 2)"# };
    format!(
        r#"(module
        (import "mirrord" "get" (func $get (param i32 i32 i32) (result i32)))
        (import "mirrord" "get_header" (func $get_header (param i32 i32 i32 i32 i32) (result i32)))
        (import "mirrord" "get_header_at" (func $get_header_at (param i32 i32 i32) (result i64)))
        (import "mirrord" "get_property" (func $get_property (param i32 i32 i32 i32) (result i32)))
        (import "mirrord" "get_body" (func $get_body (param i32 i32 i32) (result i32)))
        (import "mirrord" "edit_header" (func $edit_header (param i32 i32 i32 i32 i32 i32)))
        (import "mirrord" "set_path" (func $set_path (param i32 i32)))
        (import "mirrord" "replace_body" (func $replace_body (param i32 i32)))
        (import "mirrord" "watch_response" (func $watch_response (param i64)))
        (import "mirrord" "watch_request_body" (func $watch_request_body (param i32)))
        (import "mirrord" "watch_response_body" (func $watch_response_body (param i32)))
        (import "mirrord" "watch_end" (func $watch_end))
        (import "mirrord" "set_token" (func $set_token (param i64)))
        (import "mirrord" "respond" (func $respond (param i32 i32 i32)))
        (import "mirrord" "delay" (func $delay (param i32)))
        (import "mirrord" "abort" (func $abort))
        (import "mirrord" "reason" (func $reason (param i32 i32)))
        (import "mirrord" "log" (func $log (param i32 i32 i32)))
        (import "mirrord" "get_state" (func $get_state (param i32 i32 i32 i32) (result i32)))
        (import "mirrord" "set_state" (func $set_state (param i32 i32 i32 i32 i32)))
        (import "mirrord" "add_state" (func $add_state (param i32 i32 i64 i32) (result i64)))
        (import "mirrord" "remove_state" (func $remove_state (param i32 i32)))
        (import "mirrord" "random" (func $random (result i64)))
        (import "mirrord" "now" (func $now (result i64)))
        (import "mirrord" "count" (func $count (param i32 i32 i64)))
        (import "mirrord" "observe" (func $observe (param i32 i32 i64)))
        {own_memory}
        {text}
        (func (export "mirrord_abi_version_1"))
        {own_configure}
        {own_request}
        (func $say (param $n i32)
          (i32.store8 (i32.const 4000) (i32.add (i32.const 48) (i32.div_u (i32.rem_u (local.get $n) (i32.const 100)) (i32.const 10))))
          (i32.store8 (i32.const 4001) (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
          (call $reason (i32.const 4000) (i32.const 2)))
        {hooks})"#
    )
    .into_bytes()
}

/// The filter of such a module.
pub fn filter(engine: &Engine, name: &str, hooks: &str, settings: Settings) -> Filter {
    let module = engine.load(name, &module(hooks)).unwrap_or_else(|error| panic!("{error}"));
    module.configure_with(settings).unwrap_or_else(|error| panic!("{error}"))
}

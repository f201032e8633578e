// All of mirrord's filter ABI, version 1, in AssemblyScript; docs/abi.md has the contract of each function. What is not used is not
// imported.

// What a request hook returns.
export const PASS: i32 = 0;
export const STEAL: i32 = 1;
export const MIRROR: i32 = 2;
export const RESPOND: i32 = 3;
export const STEAL_AND_MIRROR: i32 = 4;
export const ABORT: i32 = 5;
export const NEED_BODY: i32 = 6;

// What `get` gives.
export const CONFIG: i32 = 0;
export const METHOD: i32 = 1;
export const TARGET: i32 = 2;
export const CLIENT: i32 = 3;
export const DESTINATION: i32 = 4;
export const PROTOCOL: i32 = 5;
export const SERVER_NAME: i32 = 6;
export const ALPN: i32 = 7;
export const FIRST_BYTES: i32 = 8;

// Whose headers, and how, `editHeader` edits.
export const REQUEST: i32 = 0;
export const RESPONSE: i32 = 1;
export const SET: i32 = 0;
export const APPEND: i32 = 1;
export const REMOVE: i32 = 2;

// Levels of `logLine`.
export const ERROR: i32 = 0;
export const WARNING: i32 = 1;
export const INFO: i32 = 2;
export const DEBUG: i32 = 3;

@external("mirrord", "get")
export declare function get(what: i32, buf: usize, cap: i32): i32;
@external("mirrord", "get_header")
export declare function getHeader(name: usize, nameLen: i32, nth: i32, buf: usize, cap: i32): i32;
@external("mirrord", "get_header_at")
export declare function getHeaderAt(index: i32, buf: usize, cap: i32): i64;
@external("mirrord", "get_status")
export declare function getStatus(): i32;
@external("mirrord", "get_body")
export declare function getBody(offset: i32, buf: usize, cap: i32): i32;
@external("mirrord", "get_property")
export declare function getProperty(name: usize, nameLen: i32, buf: usize, cap: i32): i32;

@external("mirrord", "edit_header")
export declare function editHeader(target: i32, op: i32, name: usize, nameLen: i32, value: usize, valueLen: i32): void;
@external("mirrord", "set_path")
export declare function setPath(path: usize, len: i32): void;
@external("mirrord", "delay")
export declare function delay(milliseconds: i32): void;
@external("mirrord", "respond")
export declare function respond(status: i32, body: usize, bodyLen: i32): void;
@external("mirrord", "reason")
export declare function reason(text: usize, len: i32): void;
@external("mirrord", "log")
export declare function logLine(level: i32, text: usize, len: i32): void;

@external("mirrord", "watch_response")
export declare function watchResponse(token: i64): void;
@external("mirrord", "watch_request_body")
export declare function watchRequestBody(window: i32): void;
@external("mirrord", "watch_response_body")
export declare function watchResponseBody(window: i32): void;
@external("mirrord", "watch_end")
export declare function watchEnd(): void;
@external("mirrord", "set_token")
export declare function setToken(token: i64): void;
@external("mirrord", "replace_body")
export declare function replaceBody(bytes: usize, len: i32): void;
@external("mirrord", "abort")
export declare function abortExchange(): void;

@external("mirrord", "get_state")
export declare function getState(key: usize, keyLen: i32, buf: usize, cap: i32): i32;
@external("mirrord", "set_state")
export declare function setState(key: usize, keyLen: i32, value: usize, valueLen: i32, ttl: i32): void;
@external("mirrord", "add_state")
export declare function addState(key: usize, keyLen: i32, delta: i64, ttl: i32): i64;
@external("mirrord", "remove_state")
export declare function removeState(key: usize, keyLen: i32): void;
@external("mirrord", "count")
export declare function count(name: usize, nameLen: i32, delta: i64): void;
@external("mirrord", "observe")
export declare function observe(name: usize, nameLen: i32, value: i64): void;
@external("mirrord", "random")
export declare function random(): i64;
@external("mirrord", "now")
export declare function now(): i64;

// Strings here are UTF-16, the agent's are bytes.
export function utf8(text: string): Uint8Array {
  return Uint8Array.wrap(String.UTF8.encode(text));
}

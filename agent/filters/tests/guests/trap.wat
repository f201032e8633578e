;; Traps, two calls deep, after saying something at level error as a panic hook would.
(module
  (import "mirrord" "log" (func $log (param i32 i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "panicked at src/lib.rs:7: boom")
  (func (export "mirrord_abi_version_1"))
  (func (export "mirrord_configure") (result i32) i32.const 0)
  (func $deep (call $log (i32.const 0) (i32.const 0) (i32.const 30)) unreachable)
  (func $on_request (export "mirrord_on_request") (result i32)
    call $deep
    i32.const 1))

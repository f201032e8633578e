;; Never returns for a request with the header `x-loop`; passes all others.
(module
  (import "mirrord" "get_header" (func $get_header (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "x-loop")
  (func (export "mirrord_abi_version_1"))
  (func (export "mirrord_configure") (result i32) i32.const 0)
  (func (export "mirrord_on_request") (result i32)
    (if (i32.ge_s (call $get_header (i32.const 0) (i32.const 6) (i32.const 0) (i32.const 64) (i32.const 64)) (i32.const 0))
      (then (loop $again br $again)))
    i32.const 0))

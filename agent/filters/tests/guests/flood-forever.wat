;; Logs without end.
(module
  (import "mirrord" "log" (func $log (param i32 i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "again")
  (func (export "mirrord_abi_version_1"))
  (func (export "mirrord_configure") (result i32) i32.const 0)
  (func (export "mirrord_on_request") (result i32)
    (loop $more (call $log (i32.const 2) (i32.const 0) (i32.const 5)) (br $more))
    unreachable))

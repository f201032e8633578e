;; Logs a thousand times for each request, then steals it.
(module
  (import "mirrord" "log" (func $log (param i32 i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "again\nand again")
  (func (export "mirrord_abi_version_1"))
  (func (export "mirrord_configure") (result i32) i32.const 0)
  (func (export "mirrord_on_request") (result i32) (local $n i32)
    (loop $more
      (call $log (i32.const 2) (i32.const 0) (i32.const 15))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $n) (i32.const 1000))))
    i32.const 1))

;; Refuses every config.
(module
  (import "mirrord" "reason" (func $reason (param i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "the moon is not full")
  (func (export "mirrord_abi_version_1"))
  (func (export "mirrord_configure") (result i32)
    (call $reason (i32.const 8) (i32.const 20))
    i32.const 7)
  (func (export "mirrord_on_request") (result i32) i32.const 1))

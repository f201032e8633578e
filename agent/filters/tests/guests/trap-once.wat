;; Traps at the header `x-trap`; steals the first request that an instance sees and passes the later ones, so that
;; a fresh instance can be told from an old one.
(module
  (import "mirrord" "get_header" (func $get_header (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (global $seen (mut i32) (i32.const 0))
  (data (i32.const 0) "x-trap")
  (func (export "mirrord_abi_version_1"))
  (func (export "mirrord_configure") (result i32) i32.const 0)
  (func (export "mirrord_on_request") (result i32)
    (if (i32.ge_s (call $get_header (i32.const 0) (i32.const 6) (i32.const 0) (i32.const 64) (i32.const 64)) (i32.const 0))
      (then unreachable))
    (global.set $seen (i32.add (global.get $seen) (i32.const 1)))
    (i32.eq (global.get $seen) (i32.const 1))))

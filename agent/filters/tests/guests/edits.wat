;; Makes one header edit on the request, wholly taken from the request: name in `n`, value in `v` (with `%` for CR LF),
;; operation as the first digit of `o`; repeated as often as `r` has bytes. Then steals.
(module
  (import "mirrord" "get_header" (func $get_header (param i32 i32 i32 i32 i32) (result i32)))
  (import "mirrord" "edit_header" (func $edit_header (param i32 i32 i32 i32 i32 i32)))
  (memory (export "memory") 2)
  (data (i32.const 0) "nvor")
  (func (export "mirrord_abi_version_1"))
  (func (export "mirrord_configure") (result i32) i32.const 0)
  (func $read (param $which i32) (param $at i32) (result i32) (local $len i32)
    (local.set $len (call $get_header (local.get $which) (i32.const 1) (i32.const 0) (local.get $at) (i32.const 20000)))
    (if (result i32) (i32.lt_s (local.get $len) (i32.const 0)) (then (i32.const 0)) (else (local.get $len))))
  (func (export "mirrord_on_request") (result i32) (local $n i32) (local $v i32) (local $r i32) (local $i i32)
    (local.set $n (call $read (i32.const 0) (i32.const 1000)))
    (local.set $v (call $read (i32.const 1) (i32.const 30000)))
    (drop (call $read (i32.const 2) (i32.const 100)))
    (local.set $r (call $read (i32.const 3) (i32.const 60000)))
    (loop $next
      (if (i32.eq (i32.load8_u (i32.add (i32.const 30000) (local.get $i))) (i32.const 37))
        (then (i32.store8 (i32.add (i32.const 30000) (local.get $i)) (i32.const 10))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (local.get $v))))
    (loop $again
      (call $edit_header (i32.const 0) (i32.sub (i32.load8_u (i32.const 100)) (i32.const 48))
        (i32.const 1000) (local.get $n) (i32.const 30000) (local.get $v))
      (local.set $r (i32.sub (local.get $r) (i32.const 1)))
      (br_if $again (i32.gt_s (local.get $r) (i32.const 0))))
    i32.const 1))

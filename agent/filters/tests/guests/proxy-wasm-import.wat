;; Imports what one vendor's proxy adds to the ABI.
(module
  (import "env" "proxy_redis_call" (func (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "malloc") (param i32) (result i32) i32.const 0)
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) i32.const 0))

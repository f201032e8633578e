// All of mirrord's filter ABI, version 1, in Go; docs/abi.md has the contract of each function. What is not used is not imported.
package main

import "unsafe"

// What a request hook returns.
const (
	verdictPass int32 = iota
	verdictSteal
	verdictMirror
	verdictRespond
	verdictStealAndMirror
	verdictAbort
	verdictNeedBody
)

// What get gives.
const (
	whatConfig int32 = iota
	whatMethod
	whatTarget
	whatClient
	whatDestination
	whatProtocol
	whatServerName
	whatAlpn
	whatFirstBytes
)

// Whose headers, and how, editHeader edits.
const (
	targetRequest  int32 = 0
	targetResponse int32 = 1

	opSet    int32 = 0
	opAppend int32 = 1
	opRemove int32 = 2
)

// Levels of logLine.
const (
	levelError int32 = iota
	levelWarning
	levelInfo
	levelDebug
)

// A string travels as pointer and length.

//go:wasmimport mirrord get
func get(what int32, buf unsafe.Pointer, size int32) int32

//go:wasmimport mirrord get_header
func getHeader(name string, nth int32, buf unsafe.Pointer, size int32) int32

//go:wasmimport mirrord get_header_at
func getHeaderAt(index int32, buf unsafe.Pointer, size int32) int64

//go:wasmimport mirrord get_status
func getStatus() int32

//go:wasmimport mirrord get_body
func getBody(offset int32, buf unsafe.Pointer, size int32) int32

//go:wasmimport mirrord get_property
func getProperty(name string, buf unsafe.Pointer, size int32) int32

//go:wasmimport mirrord edit_header
func editHeader(target, op int32, name, value string)

//go:wasmimport mirrord set_path
func setPath(path string)

//go:wasmimport mirrord delay
func delay(milliseconds int32)

//go:wasmimport mirrord respond
func respond(status int32, body string)

//go:wasmimport mirrord reason
func reason(text string)

//go:wasmimport mirrord log
func logLine(level int32, text string)

//go:wasmimport mirrord watch_response
func watchResponse(token int64)

//go:wasmimport mirrord watch_request_body
func watchRequestBody(window int32)

//go:wasmimport mirrord watch_response_body
func watchResponseBody(window int32)

//go:wasmimport mirrord watch_end
func watchEnd()

//go:wasmimport mirrord set_token
func setToken(token int64)

//go:wasmimport mirrord replace_body
func replaceBody(bytes string)

//go:wasmimport mirrord abort
func abortExchange()

//go:wasmimport mirrord get_state
func getState(key string, buf unsafe.Pointer, size int32) int32

//go:wasmimport mirrord set_state
func setState(key, value string, ttl int32)

//go:wasmimport mirrord add_state
func addState(key string, delta int64, ttl int32) int64

//go:wasmimport mirrord remove_state
func removeState(key string)

//go:wasmimport mirrord count
func count(name string, delta int64)

//go:wasmimport mirrord observe
func observe(name string, value int64)

//go:wasmimport mirrord random
func random() int64

//go:wasmimport mirrord now
func now() int64

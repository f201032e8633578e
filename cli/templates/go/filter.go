// Steals the requests of one user.
//
// Config: the user's name as it stands in the header `x-user`; without a config it is `me`.
package main

import "unsafe"

var (
	user = "me"
	// One for all calls: what a request does not allocate need not be collected.
	buffer = make([]byte, 64<<10)
)

//go:wasmexport mirrord_abi_version_1
func abiVersion1() {}

//go:wasmexport mirrord_configure
func configure() int32 {
	size := get(whatConfig, unsafe.Pointer(&buffer[0]), int32(len(buffer)))
	if size > 255 {
		reason("the config is the name of a user, at most 255 bytes")
		return 1
	}
	if size > 0 {
		user = string(buffer[:size])
	}
	return 0
}

//go:wasmexport mirrord_on_request
func onRequest() int32 {
	size := getHeader("x-user", 0, unsafe.Pointer(&buffer[0]), int32(len(buffer)))
	if size < 0 || int(size) > len(buffer) || string(buffer[:size]) != user {
		return verdictPass
	}
	reason("x-user is mine")
	editHeader(targetResponse, opSet, "x-answered-by", "my machine")
	return verdictSteal
}

// Never called, but a Go program has one.
func main() {}

// Steals the requests that carry a given header with a given value, and marks their responses.
//
// Config: {"name": "x-user", "value": "me"}. The name is compared without regard to case, the value exactly.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unsafe"
)

const example = `{"name": "x-user", "value": "me"}`

var (
	config struct{ name, value string }
	why    string
	// One for all calls: what a request does not allocate need not be collected.
	buffer = make([]byte, 64<<10)
)

//go:wasmexport mirrord_abi_version_1
func abiVersion1() {}

//go:wasmexport mirrord_configure
func configure() int32 {
	if problem := read(); problem != "" {
		reason(problem + "; it looks like " + example)
		return 1
	}
	return 0
}

func read() string {
	size := get(whatConfig, unsafe.Pointer(&buffer[0]), int32(len(buffer)))
	if size <= 0 {
		return "this filter needs a config"
	}
	var fields struct{ Name, Value *string }
	decoder := json.NewDecoder(bytes.NewReader(buffer[:size]))
	// A misspelt field would otherwise steal nothing, silently.
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&fields); err != nil {
		return fmt.Sprintf("the config is wrong (%v)", err)
	}
	if decoder.More() {
		return "the config goes on behind its end"
	}
	if fields.Name == nil || fields.Value == nil {
		return `the config lacks "name" or "value"`
	}
	for _, letter := range *fields.Name {
		if letter <= ' ' || letter >= 0x7f || letter == ':' {
			return fmt.Sprintf("%q cannot be a header's name", *fields.Name)
		}
	}
	if *fields.Name == "" {
		return `"name" is empty`
	}
	config.name, config.value = *fields.Name, *fields.Value
	why = "header " + config.name + " has the configured value"
	return ""
}

//go:wasmexport mirrord_on_request
func onRequest() int32 {
	// A client may send the header more than once; any of them counts.
	for nth := int32(0); ; nth++ {
		size := getHeader(config.name, nth, unsafe.Pointer(&buffer[0]), int32(len(buffer)))
		if size < 0 {
			return verdictPass
		}
		// A longer one did not fit, and is another one than the config can hold.
		if int(size) > len(buffer) || string(buffer[:size]) != config.value {
			continue
		}
		editHeader(targetResponse, opSet, "x-mirrord-filter", "header")
		reason(why)
		return verdictSteal
	}
}

// Never called, but a Go program has one.
func main() {}

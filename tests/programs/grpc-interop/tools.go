//go:build tools

// Package interop pins gRPC's own interoperability client and server, which the tests build and run.
package interop

import (
	_ "google.golang.org/grpc/interop/client"
	_ "google.golang.org/grpc/interop/server"
)

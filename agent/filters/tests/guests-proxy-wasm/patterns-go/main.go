// The patterns of stock proxy-wasm filters on the Go SDK, as its users write them: one module, and the config (NAME or
// NAME ARGUMENT) says which pattern it is.
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

func main() {}

func init() {
	proxywasm.SetPluginContext(func(uint32) types.PluginContext { return &root{} })
}

type root struct {
	types.DefaultPluginContext
	name, argument string
	counter        proxywasm.MetricCounter
	gauge          proxywasm.MetricGauge
	histogram      proxywasm.MetricHistogram
	queue, ticks   uint32
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func (r *root) OnPluginStart(size int) types.OnPluginStartStatus {
	config := []byte{}
	if size > 0 {
		var err error
		config, err = proxywasm.GetPluginConfiguration()
		must(err)
	}
	r.name, r.argument, _ = strings.Cut(string(config), " ")
	switch r.name {
	case "refuse":
		proxywasm.LogErrorf("no such pattern: %s", r.argument)
		return types.OnPluginStartStatusFailed
	case "tick":
		must(proxywasm.SetTickPeriodMilliSeconds(10))
	case "queue":
		var err error
		r.queue, err = proxywasm.RegisterSharedQueue("requests")
		must(err)
	case "metrics":
		r.counter = proxywasm.DefineCounterMetric("requests")
		r.gauge = proxywasm.DefineGaugeMetric("last_path_length")
		r.histogram = proxywasm.DefineHistogramMetric("path_length")
	}
	proxywasm.LogInfof("configured as %s", r.name)
	return types.OnPluginStartStatusOK
}

func (r *root) OnTick() {
	r.ticks++
	must(proxywasm.SetSharedData("ticks", binary.LittleEndian.AppendUint32(nil, r.ticks), 0))
}

func (r *root) OnQueueReady(queue uint32) {
	item, err := proxywasm.DequeueSharedQueue(queue)
	must(err)
	proxywasm.LogInfof("item %s", item)
}

func (r *root) NewHttpContext(uint32) types.HttpContext {
	switch r.name {
	case "steal":
		return &steal{root: r}
	case "headers":
		return &headers{}
	case "phases":
		return &phases{}
	case "body":
		return &body{}
	case "decide-by-body":
		return &decideByBody{}
	case "local":
		return &local{}
	case "callout":
		return &callout{root: r}
	case "properties":
		return &properties{}
	case "shared":
		return &shared{}
	case "queue":
		return &queue{root: r}
	case "tick":
		return &tick{}
	case "metrics":
		return &metrics{root: r}
	case "unsupported":
		return &unsupported{}
	case "panic":
		return &panics{}
	}
	return &types.DefaultHttpContext{}
}

func header(name string) string {
	value, err := proxywasm.GetHttpRequestHeader(name)
	if err != nil && err != types.ErrorStatusNotFound {
		panic(err)
	}
	return value
}

func verdict(verdict string) {
	must(proxywasm.SetProperty([]string{"mirrord", "verdict"}, []byte(verdict)))
}

type steal struct {
	types.DefaultHttpContext
	root *root
}

func (f *steal) OnHttpRequestHeaders(int, bool) types.Action {
	name, value, _ := strings.Cut(f.root.argument, "=")
	if header(name) == value {
		verdict("steal")
		must(proxywasm.SetProperty([]string{"mirrord", "reason"}, []byte("it carries "+name)))
	}
	return types.ActionContinue
}

type headers struct{ types.DefaultHttpContext }

func (*headers) OnHttpRequestHeaders(count int, _ bool) types.Action {
	all, err := proxywasm.GetHttpRequestHeaders()
	must(err)
	if len(all) != count {
		panic("count")
	}
	for _, pair := range all {
		proxywasm.LogInfof("%s: %s", pair[0], pair[1])
	}
	must(proxywasm.ReplaceHttpRequestHeader("x-set", "1"))
	must(proxywasm.AddHttpRequestHeader("x-added", "a"))
	must(proxywasm.AddHttpRequestHeader("x-added", "b"))
	must(proxywasm.RemoveHttpRequestHeader("x-removed"))
	must(proxywasm.RemoveHttpRequestHeader("content-length"))
	must(proxywasm.ReplaceHttpRequestHeader(":path", "/rewritten?by=filter"))
	if wanted := header("x-verdict"); wanted != "" {
		verdict(wanted)
	}
	return types.ActionContinue
}

func (*headers) OnHttpResponseHeaders(int, bool) types.Action {
	status, err := proxywasm.GetHttpResponseHeader(":status")
	must(err)
	all, err := proxywasm.GetHttpResponseHeaders()
	must(err)
	kept := [][2]string{{"x-status", status}}
	for _, pair := range all {
		if pair[0] != "server" {
			kept = append(kept, pair)
		}
	}
	must(proxywasm.ReplaceHttpResponseHeaders(kept))
	return types.ActionContinue
}

type phases struct{ types.DefaultHttpContext }

func (*phases) OnHttpRequestHeaders(_ int, end bool) types.Action {
	proxywasm.LogInfof("request headers %t", end)
	return types.ActionContinue
}

func (*phases) OnHttpRequestBody(size int, end bool) types.Action {
	proxywasm.LogInfof("request body %d %t", size, end)
	return types.ActionContinue
}

func (*phases) OnHttpRequestTrailers(count int) types.Action {
	proxywasm.LogInfof("request trailers %d", count)
	return types.ActionContinue
}

func (*phases) OnHttpResponseHeaders(_ int, end bool) types.Action {
	proxywasm.LogInfof("response headers %t", end)
	return types.ActionContinue
}

func (*phases) OnHttpResponseBody(size int, end bool) types.Action {
	proxywasm.LogInfof("response body %d %t", size, end)
	return types.ActionContinue
}

func (*phases) OnHttpResponseTrailers(count int) types.Action {
	trailers, err := proxywasm.GetHttpResponseTrailers()
	must(err)
	proxywasm.LogInfof("response trailers %d %v", count, trailers)
	must(proxywasm.AddHttpResponseTrailer("x-trailer", "1"))
	return types.ActionContinue
}

func (*phases) OnHttpStreamDone() {
	proxywasm.LogInfof("log %s", header(":path"))
}

type body struct {
	types.DefaultHttpContext
	total int
}

func (*body) OnHttpRequestHeaders(int, bool) types.Action {
	must(proxywasm.RemoveHttpRequestHeader("content-length"))
	return types.ActionContinue
}

func (f *body) OnHttpRequestBody(size int, end bool) types.Action {
	if !end {
		return types.ActionPause
	}
	f.total = size
	if size > 0 {
		whole, err := proxywasm.GetHttpRequestBody(0, size)
		must(err)
		must(proxywasm.ReplaceHttpRequestBody(bytes.ToUpper(whole)))
	}
	return types.ActionContinue
}

func (f *body) OnHttpResponseHeaders(int, bool) types.Action {
	must(proxywasm.RemoveHttpResponseHeader("content-length"))
	must(proxywasm.ReplaceHttpResponseHeader("x-request-size", strconv.Itoa(f.total)))
	return types.ActionContinue
}

func (f *body) OnHttpResponseBody(size int, end bool) types.Action {
	if !end {
		return types.ActionPause
	}
	if size > 0 {
		whole, err := proxywasm.GetHttpResponseBody(0, size)
		must(err)
		if bytes.Contains(whole, []byte("secret")) {
			must(proxywasm.ReplaceHttpResponseBody(fmt.Appendf(nil, "Original message body (%d bytes) redacted.\n", size)))
		}
	}
	return types.ActionContinue
}

type decideByBody struct{ types.DefaultHttpContext }

func (*decideByBody) OnHttpRequestHeaders(_ int, end bool) types.Action {
	if end {
		return types.ActionContinue
	}
	return types.ActionPause
}

func (*decideByBody) OnHttpRequestBody(size int, end bool) types.Action {
	whole, err := proxywasm.GetHttpRequestBody(0, size)
	if err == nil && bytes.Contains(whole, []byte("steal")) {
		verdict("steal")
		must(proxywasm.ReplaceHttpRequestHeader("x-size", strconv.Itoa(size)))
		if rest, ok := bytes.CutPrefix(whole, []byte("change ")); ok {
			must(proxywasm.ReplaceHttpRequestBody(append([]byte("changed: "), rest...)))
		}
		return types.ActionContinue
	}
	if end {
		return types.ActionContinue
	}
	return types.ActionPause
}

type local struct{ types.DefaultHttpContext }

func (*local) OnHttpRequestHeaders(int, bool) types.Action {
	if header("authorization") == "" {
		fields := [][2]string{{"powered-by", "proxy-wasm"}, {"content-length", "99"}}
		must(proxywasm.SendHttpResponse(403, fields, []byte("Access forbidden.\n"), -1))
		return types.ActionPause
	}
	return types.ActionContinue
}

func (*local) OnHttpResponseHeaders(int, bool) types.Action {
	if status, err := proxywasm.GetHttpResponseHeader(":status"); err == nil && status == "500" {
		must(proxywasm.SendHttpResponse(503, nil, []byte("later"), -1))
	}
	return types.ActionContinue
}

type callout struct {
	types.DefaultHttpContext
	root *root
}

func (f *callout) OnHttpRequestHeaders(int, bool) types.Action {
	fields := [][2]string{{":method", "POST"}, {":path", header(":path")}, {":authority", "auth.svc"}, {"x-user", header("x-user")}}
	_, err := proxywasm.DispatchHttpCall(f.root.argument, fields, []byte("who is it?"), nil, 500, func(headers, size, _ int) {
		status, answer := "", ""
		if all, err := proxywasm.GetHttpCallResponseHeaders(); err == nil {
			for _, pair := range all {
				switch pair[0] {
				case ":status":
					status = pair[1]
				case "x-answer":
					answer = pair[1]
				}
			}
		}
		if status != "200" {
			must(proxywasm.SendHttpResponse(403, nil, []byte("the other one says no"), -1))
			return
		}
		words, err := proxywasm.GetHttpCallResponseBody(0, size)
		must(err)
		verdict(string(words))
		must(proxywasm.ReplaceHttpRequestHeader("x-asked", answer))
		must(proxywasm.ResumeHttpRequest())
	})
	if err != nil {
		proxywasm.LogWarnf("no call: %v", err)
		return types.ActionContinue
	}
	return types.ActionPause
}

type properties struct{ types.DefaultHttpContext }

func (*properties) OnHttpRequestHeaders(int, bool) types.Action {
	for _, name := range []string{"path", "url_path", "query", "host", "scheme", "method", "protocol"} {
		value, err := proxywasm.GetProperty([]string{"request", name})
		must(err)
		proxywasm.LogInfof("request.%s = %s", name, value)
	}
	for _, root := range []string{"source", "destination"} {
		address, err := proxywasm.GetProperty([]string{root, "address"})
		must(err)
		port, err := proxywasm.GetProperty([]string{root, "port"})
		must(err)
		proxywasm.LogInfof("%s.address = %s, port = %d", root, address, binary.LittleEndian.Uint64(port))
	}
	all, err := proxywasm.GetPropertyMap([]string{"request", "headers"})
	must(err)
	proxywasm.LogInfof("request.headers has %d", len(all))
	if _, err := proxywasm.GetProperty([]string{"no", "such"}); err != types.ErrorStatusNotFound {
		panic(err)
	}
	return types.ActionContinue
}

type shared struct{ types.DefaultHttpContext }

func (*shared) OnHttpRequestHeaders(int, bool) types.Action {
	for {
		value, cas, err := proxywasm.GetSharedData("count")
		if err != nil && err != types.ErrorStatusNotFound {
			panic(err)
		}
		count := uint32(1)
		if err == nil {
			count = binary.LittleEndian.Uint32(value) + 1
		}
		err = proxywasm.SetSharedData("count", binary.LittleEndian.AppendUint32(nil, count), cas)
		if err == nil {
			must(proxywasm.ReplaceHttpRequestHeader("x-count", strconv.Itoa(int(count))))
			return types.ActionContinue
		}
		if err != types.ErrorStatusCasMismatch {
			panic(err)
		}
	}
}

type queue struct {
	types.DefaultHttpContext
	root *root
}

func (*queue) OnHttpRequestHeaders(int, bool) types.Action {
	id, err := proxywasm.ResolveSharedQueue("", "requests")
	must(err)
	must(proxywasm.EnqueueSharedQueue(id, []byte(header(":path"))))
	if _, err := proxywasm.ResolveSharedQueue("", "no such"); err != types.ErrorStatusNotFound {
		panic(err)
	}
	return types.ActionContinue
}

type tick struct{ types.DefaultHttpContext }

func (*tick) OnHttpRequestHeaders(int, bool) types.Action {
	ticks := uint32(0)
	if value, _, err := proxywasm.GetSharedData("ticks"); err == nil {
		ticks = binary.LittleEndian.Uint32(value)
	}
	must(proxywasm.ReplaceHttpRequestHeader("x-ticks", strconv.Itoa(int(ticks))))
	return types.ActionContinue
}

type metrics struct {
	types.DefaultHttpContext
	root *root
}

func (f *metrics) OnHttpRequestHeaders(int, bool) types.Action {
	length := len(header(":path"))
	f.root.counter.Increment(1)
	f.root.gauge.Add(int64(length) - f.root.gauge.Value())
	f.root.histogram.Record(uint64(length))
	must(proxywasm.ReplaceHttpRequestHeader("x-count", strconv.Itoa(int(f.root.counter.Value()))))
	return types.ActionContinue
}

type unsupported struct{ types.DefaultHttpContext }

func (*unsupported) OnHttpRequestHeaders(int, bool) types.Action {
	if _, err := proxywasm.CallForeignFunction("compress", []byte("x")); err != types.ErrorStatusNotFound {
		panic(err)
	}
	fields := [][2]string{{":method", "GET"}, {":path", "/"}, {":authority", "a"}}
	if _, err := proxywasm.DispatchHttpCall("nobody", fields, nil, nil, 1000, func(int, int, int) {}); err != types.ErrorStatusBadArgument {
		panic(err)
	}
	verdict("steal")
	return types.ActionContinue
}

type panics struct{ types.DefaultHttpContext }

func (*panics) OnHttpRequestHeaders(int, bool) types.Action {
	if why := header("x-boom"); why != "" {
		panic("boom: " + why)
	}
	return types.ActionContinue
}

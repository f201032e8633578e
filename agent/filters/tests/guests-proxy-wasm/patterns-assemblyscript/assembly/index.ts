// The patterns of stock proxy-wasm filters on the AssemblyScript SDK, as its users write them: one module, and the config (NAME or
// NAME ARGUMENT) says which pattern it is.
export * from "@solo-io/proxy-runtime/proxy";
import {
  BaseContext,
  Context,
  FilterDataStatusValues,
  FilterHeadersStatusValues,
  FilterTrailersStatusValues,
  GrpcStatusValues,
  HeaderPair,
  LogLevelValues,
  RootContext,
  WasmResultValues,
  continue_request,
  log,
  registerRootContext,
  send_local_response,
  stream_context,
} from "@solo-io/proxy-runtime";
// What the package's index leaves out.
import { BufferTypeValues, get_buffer_bytes, set_property } from "@solo-io/proxy-runtime/runtime";

function info(text: string): void {
  log(LogLevelValues.info, text);
}

function bytes(text: string): ArrayBuffer {
  return String.UTF8.encode(text);
}

function pair(name: string, value: string): HeaderPair {
  return new HeaderPair(bytes(name), bytes(value));
}

function verdict(verdict: string): void {
  set_property("mirrord\0verdict", bytes(verdict));
}

class Root extends RootContext {
  constructor(id: u32) {
    super(id);
  }

  onConfigure(size: u32): bool {
    super.onConfigure(size);
    info("configured as " + this.getConfiguration());
    return this.getConfiguration() != "refuse";
  }

  createContext(id: u32): Context {
    const words = this.getConfiguration().split(" ");
    const argument = words.length > 1 ? words[1] : "";
    if (words[0] == "steal") return new Steal(id, this, argument);
    if (words[0] == "headers") return new Headers(id, this);
    if (words[0] == "phases") return new Phases(id, this);
    if (words[0] == "local") return new Local(id, this);
    if (words[0] == "callout") return new Callout(id, this, argument);
    if (words[0] == "panic") return new Panic(id, this);
    return new Context(id, this);
  }
}

class Steal extends Context {
  argument: string;
  constructor(id: u32, root: Root, argument: string) {
    super(id, root);
    this.argument = argument;
  }

  onRequestHeaders(count: u32, end: bool): FilterHeadersStatusValues {
    const words = this.argument.split("=");
    if (stream_context.headers.request.get(words[0]) == words[1]) {
      verdict("steal");
      set_property("mirrord\0reason", bytes("it carries " + words[0]));
    }
    return FilterHeadersStatusValues.Continue;
  }
}

class Headers extends Context {
  constructor(id: u32, root: Root) {
    super(id, root);
  }

  onRequestHeaders(count: u32, end: bool): FilterHeadersStatusValues {
    const all = stream_context.headers.request.get_headers();
    if (all.length != count) throw new Error("count");
    for (let i = 0; i < all.length; i++) {
      info(String.UTF8.decode(all[i].key) + ": " + String.UTF8.decode(all[i].value));
    }
    stream_context.headers.request.replace("x-set", "1");
    stream_context.headers.request.add("x-added", "a");
    stream_context.headers.request.remove("x-removed");
    return FilterHeadersStatusValues.Continue;
  }

  onResponseHeaders(count: u32, end: bool): FilterHeadersStatusValues {
    stream_context.headers.response.add("x-status", stream_context.headers.response.get(":status"));
    return FilterHeadersStatusValues.Continue;
  }
}

class Phases extends Context {
  constructor(id: u32, root: Root) {
    super(id, root);
  }

  onRequestHeaders(count: u32, end: bool): FilterHeadersStatusValues {
    info("request headers " + end.toString());
    return FilterHeadersStatusValues.Continue;
  }

  onRequestBody(size: usize, end: bool): FilterDataStatusValues {
    const body = String.UTF8.decode(get_buffer_bytes(BufferTypeValues.HttpRequestBody, 0, size as u32));
    info("request body " + body + " " + end.toString());
    return FilterDataStatusValues.Continue;
  }

  onRequestTrailers(count: u32): FilterTrailersStatusValues {
    info("request trailers " + count.toString());
    return FilterTrailersStatusValues.Continue;
  }

  onResponseHeaders(count: u32, end: bool): FilterHeadersStatusValues {
    info("response headers " + end.toString());
    return FilterHeadersStatusValues.Continue;
  }

  onResponseBody(size: usize, end: bool): FilterDataStatusValues {
    info("response body " + size.toString() + " " + end.toString());
    return FilterDataStatusValues.Continue;
  }

  onResponseTrailers(count: u32): FilterTrailersStatusValues {
    info("response trailers " + count.toString());
    stream_context.trailers.response.add("x-trailer", "1");
    return FilterTrailersStatusValues.Continue;
  }

  onLog(): void {
    info("log " + stream_context.headers.request.get(":path"));
  }
}

class Local extends Context {
  constructor(id: u32, root: Root) {
    super(id, root);
  }

  onRequestHeaders(count: u32, end: bool): FilterHeadersStatusValues {
    if (stream_context.headers.request.get("authorization") != "") return FilterHeadersStatusValues.Continue;
    const headers = [pair("powered-by", "proxy-wasm")];
    send_local_response(403, "", bytes("Access forbidden.\n"), headers, GrpcStatusValues.Unknown);
    return FilterHeadersStatusValues.StopIteration;
  }
}

class Callout extends Context {
  upstream: string;
  constructor(id: u32, root: Root, upstream: string) {
    super(id, root);
    this.upstream = upstream;
  }

  onRequestHeaders(count: u32, end: bool): FilterHeadersStatusValues {
    const headers = [pair(":method", "GET"), pair(":path", "/who"), pair(":authority", "auth")];
    const made = this.root_context.httpCall(this.upstream, headers, new ArrayBuffer(0), [], 500, this, (context, headers, size, trailers) => {
      if (stream_context.headers.http_callback.get(":status") == "200") verdict("steal");
      continue_request();
    });
    return made == WasmResultValues.Ok ? FilterHeadersStatusValues.StopIteration : FilterHeadersStatusValues.Continue;
  }
}

class Panic extends Context {
  constructor(id: u32, root: Root) {
    super(id, root);
  }

  onRequestHeaders(count: u32, end: bool): FilterHeadersStatusValues {
    throw new Error("boom");
  }
}

registerRootContext((id: u32) => new Root(id), "patterns-assemblyscript");

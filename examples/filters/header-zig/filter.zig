//! Steals the requests that carry a given header with a given value, and marks their responses.
//!
//! Config: {"name": "x-user", "value": "me"}. The name is compared without regard to case, the value exactly.

const std = @import("std");
const mirrord = @import("mirrord.zig");

const Config = struct { name: []const u8, value: []const u8 };

var text: [64 << 10]u8 = undefined;
var memory: [256 << 10]u8 = undefined;
var value_buffer: [64 << 10]u8 = undefined;
var config: Config = undefined;
var why: []const u8 = "";

export fn mirrord_abi_version_1() void {}

export fn mirrord_configure() i32 {
    const len = mirrord.get(mirrord.what.config, &text, text.len);
    if (len <= 0) return refuse("this filter needs a config");
    var fixed = std.heap.FixedBufferAllocator.init(&memory);
    // A misspelt field would otherwise steal nothing, silently: the parser refuses what it does not know.
    config = std.json.parseFromSliceLeaky(Config, fixed.allocator(), text[0..@intCast(len)], .{}) catch
        return refuse("the config is not a JSON object with \"name\" and \"value\", both strings, and nothing else");
    if (config.name.len == 0) return refuse("\"name\" cannot be a header's name");
    for (config.name) |byte| {
        if (!std.ascii.isPrint(byte) or byte == ' ' or byte == ':') return refuse("\"name\" cannot be a header's name");
    }
    why = std.mem.concat(fixed.allocator(), u8, &.{ "header ", config.name, " has the configured value" }) catch
        return refuse("\"name\" is too long");
    return 0;
}

export fn mirrord_on_request() i32 {
    // A client may send the header more than once; any of them counts.
    var nth: i32 = 0;
    while (true) : (nth += 1) {
        const len = mirrord.get_header(config.name.ptr, config.name.len, nth, &value_buffer, value_buffer.len);
        if (len < 0) return mirrord.verdict.pass;
        // A longer one did not fit, and is another one than the config can hold.
        if (len > value_buffer.len or !std.mem.eql(u8, value_buffer[0..@intCast(len)], config.value)) continue;
        const mark = .{ "x-mirrord-filter", "header" };
        mirrord.edit_header(mirrord.of.response, mirrord.op.set, mark[0], mark[0].len, mark[1], mark[1].len);
        mirrord.reason(why.ptr, why.len);
        return mirrord.verdict.steal;
    }
}

fn refuse(comptime problem: []const u8) i32 {
    const whole = problem ++ "; it looks like {\"name\": \"x-user\", \"value\": \"me\"}";
    mirrord.reason(whole, whole.len);
    return 1;
}

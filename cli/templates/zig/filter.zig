//! Steals the requests of one user.
//!
//! Config: the user's name as it stands in the header `x-user`; without a config it is `me`.

const std = @import("std");
const mirrord = @import("mirrord.zig");

var config: [255]u8 = undefined;
var value: [255]u8 = undefined;
var user: []const u8 = "me";

export fn mirrord_abi_version_1() void {}

export fn mirrord_configure() i32 {
    const len = mirrord.get(mirrord.what.config, &config, config.len);
    if (len > config.len) {
        const wrong = "the config is the name of a user, at most 255 bytes";
        mirrord.reason(wrong, wrong.len);
        return 1;
    }
    if (len > 0) user = config[0..@intCast(len)];
    return 0;
}

export fn mirrord_on_request() i32 {
    const len = mirrord.get_header("x-user", 6, 0, &value, value.len);
    if (len < 0 or len > value.len or !std.mem.eql(u8, value[0..@intCast(len)], user)) return mirrord.verdict.pass;
    const why = "x-user is mine";
    mirrord.reason(why, why.len);
    mirrord.edit_header(mirrord.of.response, mirrord.op.set, "x-answered-by", 13, "my machine", 10);
    return mirrord.verdict.steal;
}

//! Steals the requests of one user.
//!
//! Config: the user's name as it stands in the header `x-user`; without a config it is `me`.

const std = @import("std");

extern "mirrord" fn get(what: i32, buf: [*]u8, cap: usize) i32;
extern "mirrord" fn get_header(name: [*]const u8, name_len: usize, nth: i32, buf: [*]u8, cap: usize) i32;
extern "mirrord" fn edit_header(target: i32, op: i32, name: [*]const u8, name_len: usize, value: [*]const u8, value_len: usize) void;
extern "mirrord" fn reason(text: [*]const u8, len: usize) void;

const what_config = 0;
const verdict_pass = 0;
const verdict_steal = 1;
const target_response = 1;
const op_set = 0;

var config: [255]u8 = undefined;
var value: [255]u8 = undefined;
var user: []const u8 = "me";

export fn mirrord_abi_version_1() void {}

export fn mirrord_configure() i32 {
    const len = get(what_config, &config, config.len);
    if (len > config.len) {
        const wrong = "the config is the name of a user, at most 255 bytes";
        reason(wrong, wrong.len);
        return 1;
    }
    if (len > 0) user = config[0..@intCast(len)];
    return 0;
}

export fn mirrord_on_request() i32 {
    const len = get_header("x-user", 6, 0, &value, value.len);
    if (len < 0 or len > value.len or !std.mem.eql(u8, value[0..@intCast(len)], user)) return verdict_pass;
    const why = "x-user is mine";
    reason(why, why.len);
    edit_header(target_response, op_set, "x-answered-by", 13, "my machine", 10);
    return verdict_steal;
}

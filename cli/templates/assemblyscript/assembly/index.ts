// Steals the requests of one user.
//
// Config: the user's name as it stands in the header `x-user`; without a config it is `me`.

import { CONFIG, PASS, RESPONSE, SET, STEAL, editHeader, get, getHeader, reason, utf8 } from "./mirrord";

let user: Uint8Array = utf8("me");
const header = utf8("x-user");
const why = utf8("x-user is mine");
const markName = utf8("x-answered-by");
const markValue = utf8("my machine");
const buffer = new Uint8Array(64 << 10);

export function mirrord_abi_version_1(): void {}

export function mirrord_configure(): i32 {
  const len = get(CONFIG, buffer.dataStart, buffer.length);
  if (len > 255) {
    const wrong = utf8("the config is the name of a user, at most 255 bytes");
    reason(wrong.dataStart, wrong.length);
    return 1;
  }
  if (len > 0) user = buffer.slice(0, len);
  return 0;
}

export function mirrord_on_request(): i32 {
  const len = getHeader(header.dataStart, header.length, 0, buffer.dataStart, buffer.length);
  if (len != user.length || memory.compare(buffer.dataStart, user.dataStart, len) != 0) return PASS;
  reason(why.dataStart, why.length);
  editHeader(RESPONSE, SET, markName.dataStart, markName.length, markValue.dataStart, markValue.length);
  return STEAL;
}

// Steals the requests that carry a given header with a given value, and marks their responses.
//
// Config: {"name": "x-user", "value": "me"}. The name is compared without regard to case, the value exactly.

import { CONFIG, PASS, RESPONSE, SET, STEAL, editHeader, get, getHeader, reason, utf8 } from "./mirrord";

let name: Uint8Array = new Uint8Array(0);
let value: Uint8Array = new Uint8Array(0);
let why: Uint8Array = new Uint8Array(0);
const buffer = new Uint8Array(64 << 10);
const markName = utf8("x-mirrord-filter");
const markValue = utf8("header");

function refuse(problem: string): i32 {
  const text = utf8(problem + '; it looks like {"name": "x-user", "value": "me"}');
  reason(text.dataStart, text.length);
  return 1;
}

// Reads the strings of a flat JSON object. \u is not understood.
class Reader {
  at: i32 = 0;

  constructor(private text: string) {}

  // The next byte that is not blank; 0 at the end.
  peek(): i32 {
    while (this.at < this.text.length && " \t\n\r".includes(this.text.charAt(this.at))) this.at++;
    return this.at < this.text.length ? this.text.charCodeAt(this.at) : 0;
  }

  take(character: string): bool {
    const found = this.peek() == character.charCodeAt(0);
    if (found) this.at++;
    return found;
  }

  string(): string | null {
    if (!this.take('"')) return null;
    let read = "";
    for (; this.at < this.text.length; this.at++) {
      let character = this.text.charAt(this.at);
      if (character == '"') {
        this.at++;
        return read;
      }
      if (character.charCodeAt(0) < 0x20) return null;
      if (character == "\\") {
        character = this.text.charAt(++this.at);
        if (character == "" || !'"\\/'.includes(character)) return null;
      }
      read += character;
    }
    return null;
  }
}

export function mirrord_abi_version_1(): void {}

export function mirrord_configure(): i32 {
  const len = get(CONFIG, buffer.dataStart, buffer.length);
  if (len <= 0) return refuse("this filter needs a config");
  const reader = new Reader(String.UTF8.decodeUnsafe(buffer.dataStart, len));
  const fields = new Map<string, string>();
  if (!reader.take("{")) return refuse("the config is not a JSON object");
  do {
    const key = reader.string();
    if (key == null || !reader.take(":")) return refuse("the config is not JSON");
    // A misspelt field would otherwise steal nothing, silently.
    if (key != "name" && key != "value") return refuse('the config has an unknown field "' + key + '"');
    const text = reader.string();
    if (text == null) return refuse('"' + key + '" in the config is not a string');
    fields.set(key, text);
  } while (reader.take(","));
  if (!reader.take("}") || reader.peek() != 0) return refuse("the config is not JSON");
  if (!fields.has("name")) return refuse('the config lacks "name"');
  if (!fields.has("value")) return refuse('the config lacks "value"');
  name = utf8(fields.get("name"));
  value = utf8(fields.get("value"));
  if (name.length == 0) return refuse('"name" cannot be a header\'s name');
  for (let i = 0; i < name.length; i++) {
    if (name[i] <= 0x20 || name[i] >= 0x7f || name[i] == 0x3a) return refuse('"name" cannot be a header\'s name');
  }
  why = utf8("header " + fields.get("name") + " has the configured value");
  return 0;
}

export function mirrord_on_request(): i32 {
  // A client may send the header more than once; any of them counts.
  for (let nth = 0; ; nth++) {
    const len = getHeader(name.dataStart, name.length, nth, buffer.dataStart, buffer.length);
    if (len < 0) return PASS;
    // A longer one did not fit, and is another one than the config can hold.
    if (len != value.length || memory.compare(buffer.dataStart, value.dataStart, len) != 0) continue;
    editHeader(RESPONSE, SET, markName.dataStart, markName.length, markValue.dataStart, markValue.length);
    reason(why.dataStart, why.length);
    return STEAL;
  }
}

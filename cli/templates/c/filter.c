// Steals the requests of one user.
//
// Config: the user's name as it stands in the header `x-user`; without a config it is `me`.

#include "mirrord.h"

static char user[255];
static int user_len;

EXPORT(mirrord_abi_version_1) void abi(void) {}

EXPORT(mirrord_configure) int configure(void) {
  static const char wrong[] = "the config is the name of a user, at most 255 bytes";
  user_len = get(CONFIG, user, sizeof user);
  if (user_len > (int)sizeof user) {
    reason(wrong, sizeof wrong - 1);
    return 1;
  }
  if (user_len <= 0) {
    user[0] = 'm';
    user[1] = 'e';
    user_len = 2;
  }
  return 0;
}

EXPORT(mirrord_on_request) int on_request(void) {
  static char value[sizeof user];
  int len = get_header("x-user", 6, 0, value, sizeof value);
  if (len != user_len) return PASS;
  for (int i = 0; i < len; i++)
    if (value[i] != user[i]) return PASS;
  reason("x-user is mine", 14);
  edit_header(RESPONSE, SET, "x-answered-by", 13, "my machine", 10);
  return STEAL;
}

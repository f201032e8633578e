/* A filter that does what a request's header `x-do` says, words separated by spaces:
 *
 *   steal, both, abort     the verdict (both: the session answers, the pod gets a copy)
 *   need:N                 decides by the first N bytes of the body: steals if `steal` is in them
 *   up:N, down:N           looks at the request's or response's body in windows of N bytes, and replaces each `a` by `bbb`
 *   mark, instead, reset   at the response: a header, an answer of its own, or a reset
 *   path:/…, delay:MS
 *   end                    logs the exchange's end
 */
#define IMPORT(name) __attribute__((import_module("mirrord"), import_name(#name)))
#define EXPORT(name) __attribute__((export_name(#name)))

IMPORT(get_header) int get_header(const char *name, int name_len, int nth, char *buf, int cap);
IMPORT(get_body) int get_body(int offset, char *buf, int cap);
IMPORT(edit_header) void edit_header(int target, int op, const char *name, int name_len, const char *value, int value_len);
IMPORT(set_path) void set_path(const char *path, int len);
IMPORT(replace_body) void replace_body(const char *bytes, int len);
IMPORT(watch_response) void watch_response(long long token);
IMPORT(watch_request_body) void watch_request_body(int window);
IMPORT(watch_response_body) void watch_response_body(int window);
IMPORT(watch_end) void watch_end(void);
IMPORT(set_token) void set_token(long long token);
IMPORT(respond) void respond(int status, const char *body, int len);
IMPORT(delay) void delay(int milliseconds);
IMPORT(abort) void reset(void);
IMPORT(log) void log_line(int level, const char *text, int len);

enum { PASS, STEAL, MIRROR, RESPOND, BOTH, ABORT, NEED_BODY };
/* An exchange's token: what to do at its response, and whether its body decides. */
enum { MARK = 1, INSTEAD, RESET, BY_BODY = 4 };
enum { PIECE = 4096 };

static char orders[512];
static char piece[PIECE], replaced[3 * PIECE];

/* What follows `word` in the orders, or nothing. */
static const char *order(const char *word) {
    for (const char *at = orders; *at; at++) {
        const char *a = at, *w = word;
        while (*w && *a == *w)
            a++, w++;
        if (!*w && (at == orders || at[-1] == ' '))
            return a;
    }
    return 0;
}

static int number(const char *text) {
    int value = 0;
    while (*text >= '0' && *text <= '9')
        value = 10 * value + (*text++ - '0');
    return value;
}

static int verdict(void) {
    return order("steal") ? STEAL : order("both") ? BOTH : order("abort") ? ABORT : PASS;
}

EXPORT(mirrord_abi_version_1) void abi(void) {}

EXPORT(mirrord_configure) int configure(void) { return 0; }

EXPORT(mirrord_on_request) int on_request(void) {
    int len = get_header("x-do", 4, 0, orders, sizeof orders - 1);
    if (len < 0)
        return PASS;
    orders[len] = 0;
    const char *value;
    if ((value = order("path:"))) {
        int end = 0;
        while (value[end] && value[end] != ' ')
            end++;
        set_path(value, end);
    }
    if ((value = order("delay:")))
        delay(number(value));
    if ((value = order("up:")))
        watch_request_body(number(value));
    if ((value = order("down:")))
        watch_response_body(number(value));
    if (order("end"))
        watch_end();
    int at_response = order("mark") ? MARK : order("instead") ? INSTEAD : order("reset") ? RESET : 0;
    if (at_response)
        watch_response(at_response);
    if ((value = order("need:"))) {
        set_token(at_response | BY_BODY);
        watch_request_body(number(value));
        return NEED_BODY;
    }
    return verdict();
}

/* Whether it was changed. */
static void change(void) {
    int total = get_body(0, piece, 0), changed = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int at = 0; at < total; at += PIECE) {
            int len = total - at < PIECE ? total - at : PIECE, out = 0;
            get_body(at, piece, len);
            for (int i = 0; i < len; i++) {
                changed |= piece[i] == 'a';
                for (int n = piece[i] == 'a' ? 3 : 1; n--;)
                    replaced[out++] = piece[i] == 'a' ? 'b' : piece[i];
            }
            /* The first time only to see whether there is anything to do. */
            if (pass && changed)
                replace_body(replaced, out);
        }
}

static int decide(void) {
    static const char word[] = "steal";
    int total = get_body(0, piece, 0), matched = 0;
    for (int at = 0; at < total; at += PIECE) {
        int len = total - at < PIECE ? total - at : PIECE;
        get_body(at, piece, len);
        for (int i = 0; i < len; i++) {
            matched = piece[i] == word[matched] ? matched + 1 : piece[i] == 's';
            if (matched == 5)
                return STEAL;
        }
    }
    return PASS;
}

EXPORT(mirrord_on_request_body) int on_request_body(long long token, int end) {
    if (token & BY_BODY)
        return decide();
    change();
    return PASS;
}

EXPORT(mirrord_on_response) void on_response(long long token) {
    token &= ~BY_BODY;
    if (token == MARK)
        edit_header(1, 0, "x-marked", 8, "yes", 3);
    if (token == INSTEAD)
        respond(503, "instead", 7);
    if (token == RESET)
        reset();
}

EXPORT(mirrord_on_response_body) void on_response_body(long long token, int end) { change(); }

EXPORT(mirrord_on_end) void on_end(long long token) { log_line(2, "obedient: over", 14); }

//! HTTP/1 messages that are odd: some valid, which must go through untouched, some that two parsers could read in two ways.

/// A conversation: what the client sends, and what the server answers when it has all of it.
pub struct Case {
    pub name: &'static str,
    pub exchanges: Vec<(Vec<u8>, Vec<u8>)>,
    /// The server closes after the last answer.
    pub close: bool,
    /// The client sends all before it reads anything.
    pub pipelined: bool,
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\npod";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: pod\r\n\r\n";

/// Odd but valid: header case and order, framing, versions, interim answers, upgrades. None carries the header that steals.
pub fn valid() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |name, exchanges: Vec<(Vec<u8>, Vec<u8>)>, close| cases.push(Case { name, exchanges, close, pipelined: false });
    for (name, request) in requests() {
        case(name, vec![(request, OK.to_vec()), (GET.to_vec(), OK.to_vec())], false);
    }
    for (name, answer) in answers() {
        case(name, vec![(GET.to_vec(), answer), (GET.to_vec(), OK.to_vec())], false);
    }
    for (name, answer) in closing_answers() {
        case(name, vec![(GET.to_vec(), answer)], true);
    }
    let head = |extra: &str| format!("POST /e HTTP/1.1\r\nHost: pod\r\n{extra}\r\n").into_bytes();
    let go_on = b"HTTP/1.1 100 Continue\r\n\r\n".to_vec();
    case(
        "100-continue",
        vec![
            (head("Expect: 100-continue\r\nContent-Length: 4\r\n"), go_on.clone()),
            (b"body".to_vec(), OK.to_vec()),
            (GET.to_vec(), OK.to_vec()),
        ],
        false,
    );
    case(
        "100-continue with chunks",
        vec![
            (head("expect: 100-Continue\r\ntransfer-encoding: chunked\r\n"), go_on),
            (b"4\r\nbody\r\n0\r\n\r\n".to_vec(), OK.to_vec()),
            (GET.to_vec(), OK.to_vec()),
        ],
        false,
    );
    case(
        "a final answer in place of 100",
        vec![(
            head("Expect: 100-continue\r\nContent-Length: 4\r\n"),
            b"HTTP/1.1 417 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
        )],
        true,
    );
    case(
        "an answer before the request's end",
        vec![(head("Content-Length: 10\r\n"), OK.to_vec()), (b"0123456789".to_vec(), Vec::new()), (GET.to_vec(), OK.to_vec())],
        false,
    );
    case(
        "upgrade to something else",
        vec![
            (
                b"GET /ws HTTP/1.1\r\nHost: pod\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec(),
                b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n".to_vec(),
            ),
            (b"\x81\x05hello".to_vec(), b"\x81\x05world\0\xff".to_vec()),
            (b"GET /not-a-request HTTP/1.1\r\nx-user: me\r\n\r\n".to_vec(), b"\x00".to_vec()),
        ],
        false,
    );
    case(
        "an upgrade that is refused",
        vec![
            (b"GET /ws HTTP/1.1\r\nHost: pod\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec(), OK.to_vec()),
            (GET.to_vec(), OK.to_vec()),
        ],
        false,
    );
    case(
        "CONNECT",
        vec![
            (b"CONNECT there:443 HTTP/1.1\r\nHost: there:443\r\n\r\n".to_vec(), b"HTTP/1.1 200 Connected\r\n\r\n".to_vec()),
            (b"\x16\x03\x01anything".to_vec(), b"\x16\x03\x03else".to_vec()),
        ],
        false,
    );
    let bodies: [&[u8]; 2] = [
        b"POST /a HTTP/1.1\r\nHost: pod\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        b"POST /b HTTP/1.1\r\nHost: pod\r\nContent-Length: 1\r\n\r\ny",
    ];
    for (name, requests) in [("pipelined", vec![GET; 5]), ("pipelined bodies", vec![bodies[0], GET, bodies[1], bodies[0], bodies[1]])] {
        let exchanges = requests.iter().map(|request| (request.to_vec(), OK.to_vec())).collect();
        cases.push(Case { name, exchanges, close: false, pipelined: true });
    }
    cases
}

fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let many: String = (0..60).map(|number| format!("X-Header-{number}: value {number}\r\n")).collect();
    let long = format!("GET /{} HTTP/1.1\r\nHost: pod\r\nCookie: {}\r\n\r\n", "p".repeat(2000), "c".repeat(5000));
    let lines: [(&str, &[u8]); 24] = [
        ("case and order of headers", b"GET / HTTP/1.1\r\nhOsT: pod\r\naCCEPT: */*\r\nX-B: 1\r\nX-a: 2\r\nUSER-agent: me\r\n\r\n"),
        ("spaces around values", b"GET / HTTP/1.1\r\nHost:pod\r\nA:   three\r\nB:\tafter a tab\r\nC: trailing  \r\nD: \t \r\nE:\r\n\r\n"),
        ("the same header many times", b"GET / HTTP/1.1\r\nHost: pod\r\nA: 1\r\nB: x\r\nA: 2\r\na: 3\r\nB: y\r\nA: 1\r\n\r\n"),
        ("bytes above 127 in a value", b"GET / HTTP/1.1\r\nHost: pod\r\nName: J\xfcrgen \xe2\x82\xac \xff\r\n\r\n"),
        ("a tab within a value", b"GET / HTTP/1.1\r\nHost: pod\r\nA: one\ttwo  three\r\n\r\n"),
        ("odd characters in a name", b"GET / HTTP/1.1\r\nHost: pod\r\n!#$%&'*+-.^_`|~9: odd\r\n\r\n"),
        ("another user", b"GET / HTTP/1.1\r\nHost: pod\r\nX-User: you\r\nX-Users: me\r\nXX-User: me\r\n\r\n"),
        ("a target in absolute form", b"GET http://pod:80/a?b=c HTTP/1.1\r\nHost: pod\r\n\r\n"),
        ("OPTIONS *", b"OPTIONS * HTTP/1.1\r\nHost: pod\r\nMax-Forwards: 0\r\n\r\n"),
        ("methods that few know", b"M-SEARCH /%7e//../x;y=1?q=a&&b=%20 HTTP/1.1\r\nHost: pod\r\n\r\n"),
        ("a method in small letters", b"get / HTTP/1.1\r\nHost: pod\r\n\r\n"),
        ("HTTP/1.0 that stays", b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"),
        ("hop-by-hop headers", b"GET / HTTP/1.1\r\nHost: pod\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\n\r\n"),
        ("forwarding headers", b"GET / HTTP/1.1\r\nHost: pod\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nVia: 1.1 a\r\n\r\n"),
        ("Content-Length: 0", b"POST / HTTP/1.1\r\nHost: pod\r\nContent-Length: 0\r\n\r\n"),
        ("a GET with a body", b"GET / HTTP/1.1\r\nHost: pod\r\nContent-Length: 7\r\n\r\nGET / H"),
        ("a length with zeros and spaces", b"POST / HTTP/1.1\r\nHost: pod\r\nContent-Length:   0005 \r\n\r\n12345"),
        ("a body like a request", b"POST / HTTP/1.1\r\nHost: pod\r\nContent-Length: 34\r\n\r\nGET / HTTP/1.1\r\nx-user: me\r\n\r\n\r\n\r\n"),
        ("chunks of odd sizes", b"POST / HTTP/1.1\r\nHost: pod\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n3\r\nbcd\r\n1\r\n\n\r\n0\r\n\r\n"),
        ("chunk sizes in either case, with zeros", b"POST / HTTP/1.1\r\nHost: pod\r\nTransfer-Encoding: Chunked\r\n\r\n0000A\r\n0123456789\r\na\r\n0123456789\r\n000\r\n\r\n"),
        ("chunk extensions", b"POST / HTTP/1.1\r\nHost: pod\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b;c=\"d\";e\r\nxyz\r\n0;last\r\n\r\n"),
        ("trailers", b"POST / HTTP/1.1\r\nHost: pod\r\nTransfer-Encoding: chunked\r\nTrailer: A, b\r\n\r\n3\r\nxyz\r\n0\r\nA: 1\r\nb:  2 \r\nX-User: me\r\n\r\n"),
        ("gzip and chunks", b"POST / HTTP/1.1\r\nHost: pod\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n\x1f\x8b\r\n0\r\n\r\n"),
        ("chunks with a request in them", b"POST / HTTP/1.1\r\nHost: pod\r\nTransfer-Encoding: chunked\r\n\r\n1e\r\nGET / HTTP/1.1\r\nx-user: me\r\n\r\n\r\n0\r\n\r\n"),
    ];
    let mut requests: Vec<_> = lines.iter().map(|(name, bytes)| (*name, bytes.to_vec())).collect();
    requests.push(("sixty headers", format!("GET / HTTP/1.1\r\nHost: pod\r\n{many}\r\n").into_bytes()));
    requests.push(("a long target and cookie", long.into_bytes()));
    requests
}

fn answers() -> Vec<(&'static str, Vec<u8>)> {
    let lines: [(&str, &[u8]); 15] = [
        (
            "answer: case and order",
            b"HTTP/1.1 200 okay Then\r\nSeRver: q\r\nset-cookie: a\r\nX: 1\r\nSet-Cookie: b\r\ncontent-Length: 5\r\n\r\nhello",
        ),
        ("answer: no reason", b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"),
        ("answer: bytes above 127", b"HTTP/1.1 200 \xe4\xf6\r\nContent-Length: 1\r\nA: \xff\r\n\r\n\0"),
        ("answer: unknown status", b"HTTP/1.1 299 Odd\r\nContent-Length: 1\r\n\r\nx"),
        ("answer: 204", b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n"),
        ("answer: 304 with a length", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 900\r\nETag: \"x\"\r\n\r\n"),
        ("answer: 103 before 200", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"),
        (
            "answer: 102, 103, 200",
            b"HTTP/1.1 102 P\r\n\r\nHTTP/1.1 103 E\r\nL: a\r\nL: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
        ),
        ("answer: chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n"),
        (
            "answer: chunks and trailers",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: CHUNKED\r\nTrailer: T\r\n\r\n05\r\nhello\r\n0;x\r\nT: a\r\nt:  b \r\n\r\n",
        ),
        ("answer: empty chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (
            "answer: caching headers",
            b"HTTP/1.1 200 OK\r\nCache-Control: max-age=5, public\r\nAge: 3\r\nVary: *\r\nContent-Length: 0\r\n\r\n",
        ),
        ("answer: a body like an answer", b"HTTP/1.1 200 OK\r\nContent-Length: 38\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (
            "answer: keep-alive headers",
            b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nKeep-Alive: timeout=5, max=100\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "answer: 401",
            b"HTTP/1.1 401 Who\r\nWWW-Authenticate: Basic realm=\"a, b\"\r\nWWW-Authenticate: Negotiate\r\nContent-Length: 0\r\n\r\n",
        ),
    ];
    lines.iter().map(|(name, bytes)| (*name, bytes.to_vec())).collect()
}

fn closing_answers() -> Vec<(&'static str, Vec<u8>)> {
    let lines: [(&str, &[u8]); 5] = [
        ("answer until the end", b"HTTP/1.1 200 OK\r\nX: y\r\n\r\nuntil the end"),
        ("answer of HTTP/1.0", b"HTTP/1.0 200 OK\r\nServer: old\r\n\r\nuntil the end\r\n\r\n"),
        ("answer with close", b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
        ("answer of nothing until the end", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("answer that is cut", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nonly this"),
    ];
    lines.iter().map(|(name, bytes)| (*name, bytes.to_vec())).collect()
}

/// Heads that two parsers could read in two ways. All carry the header that steals, and must not be stolen.
pub fn ambiguous_heads() -> Vec<(&'static str, Vec<u8>)> {
    let post =
        |name, lines: &str, body: &str| (name, format!("POST /a HTTP/1.1\r\nHost: pod\r\nx-user: me\r\n{lines}\r\n{body}").into_bytes());
    let raw = |name, bytes: &[u8]| (name, bytes.to_vec());
    vec![
        post("CL then TE", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nX"),
        post("TE then CL", "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", "0\r\n\r\nX"),
        post("two lengths", "Content-Length: 3\r\nContent-Length: 5\r\n", "abcde"),
        post("a list of lengths", "Content-Length: 3, 5\r\n", "abcde"),
        post("a length with a plus", "Content-Length: +5\r\n", "abcde"),
        post("a negative length", "Content-Length: -5\r\n", "abcde"),
        post("a length in hex", "Content-Length: 0x5\r\n", "abcde"),
        post("a length with a space within", "Content-Length: 1 0\r\n", "abcde"),
        post("a length beyond 64 bits", "Content-Length: 18446744073709551621\r\n", "abcde"),
        post("an empty length", "Content-Length:\r\n", "abcde"),
        post("an unknown coding", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        post("identity", "Transfer-Encoding: identity\r\n", "0\r\n\r\n"),
        post("chunked and something behind", "Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
        post("chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        post("chunked in quotes", "Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"),
        post("chunked behind a vertical tab", "Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"),
        post("chunked with a parameter", "Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n"),
        post("an empty coding", "Transfer-Encoding:\r\n", "0\r\n\r\n"),
        post("a space before the colon", "Content-Length : 5\r\n", "abcde"),
        post("a tab before the colon", "Transfer-Encoding\t: chunked\r\n", "0\r\n\r\n"),
        post("a folded line", "A: one\r\n two\r\n", ""),
        post("a folded coding", "Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"),
        post("a folded empty line", "A: one\r\n \r\n", ""),
        post("a line with no colon", "Transfer-Encoding chunked\r\n", "0\r\n\r\n"),
        post("a name that is empty", ": x\r\n", ""),
        post("a name with a space", "Content Length: 5\r\n", "abcde"),
        post("a name with brackets", "Content-Length(x): 5\r\n", "abcde"),
        post("a NUL in a value", "A: x\0y\r\n", ""),
        post("a CR in a value", "A: x\ry\r\n", ""),
        post("a bare LF after a header", "A: x\nContent-Length: 5\r\n", "abcde"),
        raw("only bare LFs", b"GET /a HTTP/1.1\nHost: pod\nx-user: me\n\n"),
        raw("a bare LF after the request line", b"GET /a HTTP/1.1\nHost: pod\r\nx-user: me\r\n\r\n"),
        raw("a bare LF at the end", b"GET /a HTTP/1.1\r\nHost: pod\r\nx-user: me\r\n\n"),
        raw("a space before the first header", b"GET /a HTTP/1.1\r\n Host: pod\r\nx-user: me\r\n\r\n"),
        raw("chunks in HTTP/1.0", b"POST /a HTTP/1.0\r\nx-user: me\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        raw("an unknown version", b"GET /a HTTP/1.9\r\nHost: pod\r\nx-user: me\r\n\r\n"),
        raw("HTTP/3 in words", b"GET /a HTTP/3.0\r\nHost: pod\r\nx-user: me\r\n\r\n"),
        raw("a version in small letters", b"GET /a http/1.1\r\nHost: pod\r\nx-user: me\r\n\r\n"),
        raw("no version", b"GET /a\r\nHost: pod\r\nx-user: me\r\n\r\n"),
        raw("two spaces in the request line", b"GET  /a HTTP/1.1\r\nHost: pod\r\nx-user: me\r\n\r\n"),
        raw("a tab in the request line", b"GET\t/a HTTP/1.1\r\nHost: pod\r\nx-user: me\r\n\r\n"),
        raw("a space in the target", b"GET /a b HTTP/1.1\r\nHost: pod\r\nx-user: me\r\n\r\n"),
        raw("a NUL in the target", b"GET /a\0b HTTP/1.1\r\nHost: pod\r\nx-user: me\r\n\r\n"),
        raw("not HTTP at all", b"\x00\x01\x02\x03hello\r\nx-user: me\r\n\r\n"),
        raw("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03x-user: me\r\n\r\n"),
        raw("half of HTTP/2's preface", b"PRI * HTTP/2.0\r\nx-user: me\r\n\r\n"),
        raw(
            "a head of 200 KB",
            &[b"GET /a HTTP/1.1\r\nHost: pod\r\nx-user: me\r\nA: ", "z".repeat(200_000).as_bytes(), b"\r\n\r\n"].concat(),
        ),
    ]
}

/// Bodies that break. Their heads are sound, do not steal, and have gone on to the pod when the break is seen.
pub fn broken_bodies() -> Vec<(&'static str, Vec<u8>)> {
    let chunked =
        |name, body: &str| (name, format!("POST /a HTTP/1.1\r\nHost: pod\r\nTransfer-Encoding: chunked\r\n\r\n{body}").into_bytes());
    vec![
        chunked("a size that is no number", "xyz\r\nabc\r\n0\r\n\r\n"),
        chunked("an empty size", "\r\nabc\r\n0\r\n\r\n"),
        chunked("a negative size", "-3\r\nabc\r\n0\r\n\r\n"),
        chunked("a size with 0x", "0x3\r\nabc\r\n0\r\n\r\n"),
        chunked("a size beyond 64 bits", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        chunked("a bare LF behind a size", "3\nabc\r\n0\r\n\r\n"),
        chunked("a bare LF in an extension", "3;a\nb\r\nabc\r\n0\r\n\r\n"),
        chunked("a chunk that is longer than it says", "3\r\nabcdef\r\n0\r\n\r\n"),
        chunked("a bare LF behind a chunk", "3\r\nabc\n0\r\n\r\n"),
        chunked("a space before a size", " 3\r\nabc\r\n0\r\n\r\n"),
        chunked("a bare CR behind a size", "3\rabc\r\n0\r\n\r\n"),
        chunked("a bare LF in the trailers", "3\r\nabc\r\n0\r\nA: b\n\r\n"),
        chunked("a folded trailer", "3\r\nabc\r\n0\r\nA: b\r\n c\r\n\r\n"),
    ]
}

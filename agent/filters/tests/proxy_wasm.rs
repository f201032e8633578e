//! Filters made with the stock proxy-wasm SDKs, unmodified, in Rust and in Go: the patterns that their authors use.
//! The guests are in `guests-proxy-wasm`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may")]

mod common;
mod proxy_wasm_host;

use std::task::Poll;
use std::time::Duration;

use common::{fields, get, request, response};
use mirrord_filters::{
    CalloutResponse, Chain, Edit, FilterError, Limits, LocalResponse, MetricValue, RequestParts, Settings, Side, Step, Verdict,
};
use proxy_wasm_host::{GUESTS, Woken, decided, filter, filter_with, lines, set};

const ABC: [(&str, &str); 3] = [("Host", "shop"), ("X-User", "me"), ("Content-Length", "3")];

/// A request whose body follows.
fn upload<'a>(headers: &'a [mirrord_filters::Field<'a>]) -> RequestParts<'a> {
    RequestParts { end: false, ..request("POST", "/upload", headers) }
}

#[test]
fn a_header_decides() {
    for guest in GUESTS {
        let (filter, _) = filter(guest, "steal x-user=me");
        let mut chain = Chain::new(vec![filter]);
        for (value, verdict, reason) in [("me", Verdict::Steal, Some("it carries x-user")), ("you", Verdict::Pass, None)] {
            let headers = [("Host", "shop"), ("X-User", value)];
            let headers = fields(&headers);
            let outcome = decided(chain.on_request(&get(&headers)));
            assert_eq!((outcome.verdict, outcome.reason.as_deref()), (verdict, reason), "{guest}");
            assert_eq!((outcome.request_edits, outcome.faults), (vec![], vec![]), "{guest}");
            chain.on_end(*outcome.followers.unwrap());
        }
    }
}

#[test]
fn headers_are_read_and_edited_on_both_sides() {
    for guest in GUESTS {
        let (filter, log) = filter(guest, "headers");
        let mut chain = Chain::new(vec![filter]);
        let headers = [("Host", "shop"), ("X-Verdict", "mirror"), ("x-removed", "1"), ("X-Set", "0"), ("Content-Length", "3")];
        let headers = fields(&headers);
        let outcome = decided(chain.on_request(&upload(&headers)));
        assert_eq!(outcome.faults, [], "{guest}");
        assert_eq!(outcome.verdict, Verdict::Mirror, "{guest}");
        assert_eq!(outcome.path.as_deref(), Some(&b"/rewritten?by=filter"[..]));
        let append = |value: &str| Edit::Append { name: b"x-added".to_vec(), value: value.into() };
        let edits = [set("x-set", "1"), append("a"), append("b"), Edit::Remove { name: b"x-removed".to_vec() }];
        assert_eq!(outcome.request_edits, edits, "{guest}");
        for line in [":method: POST", ":path: /upload", ":authority: shop", ":scheme: http", "x-verdict: mirror", "content-length: 3"] {
            assert!(lines(&log).contains(&line.to_owned()), "{guest}: {line} is not in {:?}", lines(&log));
        }
        let mut followers = outcome.followers.unwrap();
        assert!(followers.want_response());
        let answer = [("Server", "nginx"), ("Content-Type", "text/plain"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")];
        let answer = fields(&answer);
        let decision = chain.on_response(&mut followers, &response(201, &answer));
        assert_eq!(decision.faults, []);
        assert_eq!(decision.edits, [Edit::Remove { name: b"server".to_vec() }, set("x-status", "201")], "{guest}");
        assert_eq!(chain.on_end(*followers), []);
    }
}

#[test]
fn every_phase_is_called() {
    for guest in GUESTS {
        let (filter, log) = filter_with(guest, Settings { config: b"phases".into(), ..Settings::default() });
        let mut chain = Chain::new(vec![filter]);
        let headers = fields(&ABC);
        let mut followers = decided(chain.on_request(&upload(&headers))).followers.unwrap();
        assert!(followers.window(Side::Request).is_some());
        assert_eq!(chain.on_body(&mut followers, Side::Request, b"abc", true), Default::default());
        let trailers = [("grpc-status", "0")];
        let trailers = fields(&trailers);
        assert_eq!(chain.on_trailers(&mut followers, Side::Request, &trailers), Default::default());
        assert_eq!(chain.on_response(&mut followers, &response(200, &[])), Default::default());
        assert_eq!(chain.on_response_body(&mut followers, b"de", false), Default::default());
        assert_eq!(chain.on_response_body(&mut followers, b"f", true), Default::default());
        let edits = chain.on_trailers(&mut followers, Side::Response, &trailers).edits;
        assert_eq!(chain.on_end(*followers), []);
        let mut expected =
            vec!["request headers false", "request body 3 true", "response headers false", "response body 2 false", "response body 1 true"];
        expected.insert(2, "request trailers 1");
        expected.extend(match guest {
            "rust" => &["response trailers 1 [(\"grpc-status\", \"0\")]", "done", "log /upload Some(200)", "deleted"][..],
            _ => &["response trailers 1 [[grpc-status 0]]", "log /upload"],
        });
        assert_eq!(edits, [Edit::Append { name: b"x-trailer".to_vec(), value: b"1".to_vec() }]);
        assert_eq!(lines(&log)[1..], expected, "{guest}");
    }
}

#[test]
fn a_body_whose_length_was_left_in_place_is_shown_and_goes_on_as_it_came() {
    let (filter, log) = filter("rust", "eager");
    let mut chain = Chain::new(vec![filter]);
    let headers = fields(&ABC);
    for _ in 0..2 {
        let mut followers = decided(chain.on_request(&upload(&headers))).followers.unwrap();
        assert!(followers.window(Side::Request).is_some() && !followers.may_change(Side::Request), "nobody waits for it");
        assert_eq!(chain.on_body(&mut followers, Side::Request, b"abc", false), Default::default());
        assert_eq!(chain.on_body(&mut followers, Side::Request, b"def", true), Default::default());
        assert_eq!(chain.on_response(&mut followers, &response(200, &headers)), Default::default());
        assert!(!followers.may_change(Side::Response));
        // What it refuses gets no further.
        assert!(chain.on_response_body(&mut followers, b"forbidden", true).abort);
        assert_eq!(chain.on_end(*followers), []);
    }
    let lines = lines(&log);
    assert_eq!(lines.iter().filter(|line| line.contains("a filter that does removes content-length")).count(), 1, "{lines:?}");
    assert_eq!(lines.iter().filter(|line| *line == "saw 3 bytes").count(), 4, "each piece once, {lines:?}");
}

#[test]
fn bodies_are_replaced_whole_or_as_they_come() {
    for guest in GUESTS {
        let (filter, _) = filter(guest, "body");
        let mut chain = Chain::new(vec![filter]);
        let headers = fields(&ABC);
        let outcome = decided(chain.on_request(&upload(&headers)));
        assert_eq!((&outcome.request_edits, outcome.verdict), (&vec![], Verdict::Pass), "content-length is the relay's");
        let mut followers = outcome.followers.unwrap();
        // Kept back until its end.
        assert_eq!(chain.on_body(&mut followers, Side::Request, b"abc", false).replaced.as_deref(), Some(&b""[..]), "{guest}");
        assert_eq!(chain.on_body(&mut followers, Side::Request, b"def", true).replaced.as_deref(), Some(&b"ABCDEF"[..]), "{guest}");
        let decision = chain.on_response(&mut followers, &response(200, &[]));
        assert_eq!((decision.edits, decision.faults), (vec![set("x-request-size", "6")], vec![]));
        assert!(followers.window(Side::Response).is_some());
        let (first, second) = (b"a sec".as_slice(), b"ret".as_slice());
        assert_eq!(chain.on_response_body(&mut followers, first, false).replaced.as_deref(), Some(&b""[..]));
        let replaced = chain.on_response_body(&mut followers, second, true).replaced.unwrap();
        assert_eq!(String::from_utf8_lossy(&replaced), "Original message body (8 bytes) redacted.\n", "{guest}");
        assert_eq!(chain.on_end(*followers), []);

        // A body that the filter looks at and leaves alone goes on as it came; one that does not fit goes on in parts.
        let mut followers = decided(chain.on_request(&get(&headers))).followers.unwrap();
        chain.on_response(&mut followers, &response(200, &[]));
        assert_eq!(chain.on_response_body(&mut followers, b"nothing to hide", true).replaced, None, "{guest}");
        let mut followers = decided(chain.on_request(&get(&headers))).followers.unwrap();
        chain.on_response(&mut followers, &response(200, &[]));
        let piece = vec![b'x'; 400 << 10];
        let mut out = Vec::new();
        for index in 0..5 {
            let decision = chain.on_response_body(&mut followers, &piece, index == 4);
            assert_eq!(decision.faults, []);
            out.extend(decision.replaced.unwrap_or_else(|| piece.clone()));
        }
        assert!(out == vec![b'x'; 5 * (400 << 10)], "{guest}: {} bytes came out", out.len());
    }
}

#[test]
fn a_body_decides_and_what_was_shown_is_not_shown_twice() {
    for guest in GUESTS {
        // A search through a whole MiB takes milliseconds, on a busy machine many.
        let limits = Limits { call: Duration::from_millis(200), ..Limits::default() };
        let (filter, _) = filter_with(guest, Settings { config: b"decide-by-body".into(), limits, ..Settings::default() });
        let mut chain = Chain::new(vec![filter]);
        let headers = fields(&ABC);
        for (body, verdict, replaced) in [
            ("pass me", Verdict::Pass, None),
            ("steal me", Verdict::Steal, None),
            ("change and steal", Verdict::Steal, Some("changed: and steal")),
        ] {
            let Step::NeedsBody(pending) = chain.on_request(&upload(&headers)) else { panic!("{guest}: it needs no body") };
            assert!(pending.window() >= body.len());
            let outcome = decided(chain.on_request_body(pending, &upload(&headers), body.as_bytes(), true));
            assert_eq!((&outcome.verdict, &outcome.faults), (&verdict, &vec![]), "{guest}");
            if verdict == Verdict::Steal {
                assert_eq!(outcome.request_edits, [set("x-size", &body.len().to_string())]);
            }
            let mut followers = outcome.followers.unwrap();
            assert_eq!(followers.may_change(Side::Request), replaced.is_some(), "{guest}: {body}");
            if replaced.is_none() {
                assert_eq!(chain.on_body(&mut followers, Side::Request, body.as_bytes(), true), Default::default(), "it was shown");
            } else {
                // It comes in other pieces than it was held in.
                let (first, second) = body.as_bytes().split_at(4);
                let mut out = chain.on_body(&mut followers, Side::Request, first, false).replaced.unwrap();
                out.extend(chain.on_body(&mut followers, Side::Request, second, true).replaced.unwrap());
                assert_eq!(Some(&*String::from_utf8_lossy(&out)), replaced, "{guest}");
            }
            assert_eq!(chain.on_end(*followers), []);
        }
        // Without a body it decides by the head.
        assert_eq!(decided(chain.on_request(&get(&headers))).verdict, Verdict::Pass);
        // A body that never says so is not held for ever.
        let Step::NeedsBody(pending) = chain.on_request(&upload(&headers)) else { panic!() };
        let long = vec![b'x'; pending.window()];
        let outcome = decided(chain.on_request_body(pending, &upload(&headers), &long, false));
        assert!(outcome.faults[0].message.contains("longer than 1 MiB"), "{guest}: {:?}", outcome.faults);
        assert_eq!(outcome.verdict, Verdict::Pass);
    }
}

#[test]
fn the_config_is_read_and_refused_in_the_filters_own_words() {
    for guest in GUESTS {
        let (_, log) = filter(guest, "anything at all");
        assert_eq!(lines(&log), ["configured as anything"], "{guest}");
        let refused = proxy_wasm_host::module(guest).configure(b"refuse nonsense", Default::default()).err().unwrap();
        assert!(matches!(refused, FilterError::ConfigRefused { .. }), "{refused}");
        assert!(refused.to_string().contains("no such pattern: nonsense"), "{guest}: {refused}");
    }
}

#[test]
fn a_local_response_answers_the_request_or_replaces_the_response() {
    for guest in GUESTS {
        let (filter, _) = filter(guest, "local");
        let mut chain = Chain::new(vec![filter]);
        let outcome = decided(chain.on_request(&get(&[])));
        let headers = vec![(b"powered-by".to_vec(), b"proxy-wasm".to_vec())];
        assert_eq!(
            outcome.verdict,
            Verdict::Respond(LocalResponse { status: 403, headers, body: b"Access forbidden.\n".to_vec() }),
            "{guest}"
        );
        assert!(outcome.followers.is_none());
        let headers = fields(&[("authorization", "let me in")]);
        for (status, replace) in [(200, None), (500, Some(LocalResponse { status: 503, headers: vec![], body: b"later".to_vec() }))] {
            let mut followers = decided(chain.on_request(&get(&headers))).followers.unwrap();
            assert_eq!(chain.on_response(&mut followers, &response(status, &[])).replace, replace, "{guest}");
            assert_eq!(chain.on_end(*followers), []);
        }
    }
    let (filter, _) = filter("rust", "grpc-local");
    let mut chain = Chain::new(vec![filter]);
    let call = [("content-type", "application/grpc+proto")];
    let call = fields(&call);
    let Verdict::Respond(answer) = decided(chain.on_request(&get(&call))).verdict else { panic!() };
    let text: Vec<_> = answer.headers.iter().map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii())).collect();
    assert_eq!(
        (answer.status, text),
        (200, ["content-type: application/grpc", "grpc-status: 10", "grpc-message: Aborted by Proxy-Wasm!"].map(String::from).to_vec())
    );
}

/// Its SDK stands still since 2020; what is made with it runs on.
#[test]
fn filters_of_the_assemblyscript_sdk_run_as_they_are() {
    let guest = "assemblyscript";
    let chain = |config| {
        let (filter, log) = proxy_wasm_host::with_upstream(guest, config);
        (Chain::new(vec![filter]), log)
    };
    let said = |log: &proxy_wasm_host::Log| -> Vec<String> {
        // It logs each step at level debug, too.
        let own = |line: &String| !["context", "Http call", "token", "configured as"].iter().any(|word| line.contains(word));
        lines(log).into_iter().filter(own).collect()
    };
    let me = fields(&[("x-user", "me"), ("content-type", "text/plain"), ("x-removed", "1")]);
    let (mut steal, _) = chain("steal x-user=me");
    let outcome = decided(steal.on_request(&get(&me)));
    assert_eq!((outcome.verdict, outcome.reason.as_deref()), (Verdict::Steal, Some("it carries x-user")));
    assert_eq!(decided(steal.on_request(&get(&[]))).verdict, Verdict::Pass);

    let (mut headers, log) = chain("headers");
    let outcome = decided(headers.on_request(&get(&me)));
    let add = |name: &str, value: &str| Edit::Append { name: name.into(), value: value.into() };
    assert_eq!(outcome.request_edits, [set("x-set", "1"), add("x-added", "a"), Edit::Remove { name: b"x-removed".to_vec() }]);
    assert!(said(&log).contains(&"x-user: me".to_owned()), "{:?}", said(&log));
    let mut followers = outcome.followers.unwrap();
    assert_eq!(headers.on_response(&mut followers, &response(201, &[])).edits, [add("x-status", "201")]);

    let (mut phases, log) = chain("phases");
    let mut followers = decided(phases.on_request(&upload(&me))).followers.unwrap();
    assert_eq!(phases.on_body(&mut followers, Side::Request, b"abc", true), Default::default());
    let trailers = [("grpc-status", "0")];
    let trailers = fields(&trailers);
    assert_eq!(phases.on_trailers(&mut followers, Side::Request, &trailers), Default::default());
    phases.on_response(&mut followers, &response(200, &[]));
    assert_eq!(phases.on_response_body(&mut followers, b"defg", true), Default::default());
    assert_eq!(phases.on_trailers(&mut followers, Side::Response, &trailers).edits, [add("x-trailer", "1")]);
    assert_eq!(phases.on_end(*followers), []);
    let expected = [
        "request headers false",
        "request body abc true",
        "request trailers 1",
        "response headers false",
        "response body 4 true",
        "response trailers 1",
        "log /upload",
    ];
    assert_eq!(said(&log), expected);

    let (mut local, _) = chain("local");
    let Verdict::Respond(answer) = decided(local.on_request(&get(&me))).verdict else { panic!("no answer") };
    assert_eq!((answer.status, &*answer.body), (403, &b"Access forbidden.\n"[..]), "its gRPC status is for calls of gRPC");
    assert_eq!(answer.headers, [(b"powered-by".to_vec(), b"proxy-wasm".to_vec())]);

    let (mut callout, _) = chain("callout auth");
    let woken = Woken::default();
    callout.background(&mut woken.context());
    let Step::Waits(mut pending) = callout.on_request(&get(&me)) else { panic!("it does not wait") };
    let call = callout.take_callouts().pop().unwrap();
    assert_eq!((call.address.as_str(), &*call.path), ("127.0.0.1:9", "/who"));
    assert!(callout.poll(&mut woken.context(), &mut pending, &get(&me)).is_pending());
    assert_eq!(callout.on_callout(call.id, Some(CalloutResponse { status: 200, ..CalloutResponse::default() })), None);
    let Poll::Ready(step) = callout.poll(&mut woken.context(), &mut pending, &get(&me)) else { panic!("it still waits") };
    assert_eq!(decided(step).verdict, Verdict::Steal);

    let (mut panic, _) = chain("panic");
    let faults = decided(panic.on_request(&get(&me))).faults;
    assert!(faults[0].message.contains("boom at: assembly/index.ts("), "{faults:?}");
    let refused = proxy_wasm_host::module(guest).configure(b"refuse", Default::default());
    assert!(matches!(refused, Err(FilterError::ConfigRefused { .. })));
}

#[test]
fn a_callout_decides_and_only_that_request_waits() {
    for guest in GUESTS {
        let (filter, _) = proxy_wasm_host::with_upstream(guest, "callout auth");
        let mut chain = Chain::new(vec![filter]);
        let (woken, headers) = (Woken::default(), [fields(&[("x-user", "a")]), fields(&[("x-user", "b")]), fields(&[("x-user", "c")])]);
        chain.background(&mut woken.context());
        let mut waiting: Vec<_> = headers
            .iter()
            .map(|headers| match chain.on_request(&upload(headers)) {
                Step::Waits(pending) => pending,
                step => panic!("{guest}: {step:?}"),
            })
            .collect();
        assert!(woken.take(), "{guest}: nobody hears of the callouts");
        let callouts = chain.take_callouts();
        assert_eq!(callouts.len(), 3);
        let first = &callouts[0];
        assert_eq!((&*first.address, &*first.method, &*first.path, &*first.authority), ("127.0.0.1:9", "POST", "/upload", "auth.svc"));
        assert_eq!(
            (&first.headers, &*first.body, first.timeout),
            (&vec![(b"x-user".to_vec(), b"a".to_vec())], &b"who is it?"[..], Duration::from_millis(500))
        );
        let wakers = [Woken::default(), Woken::default(), Woken::default()];
        for ((pending, waker), headers) in waiting.iter_mut().zip(&wakers).zip(&headers) {
            assert!(chain.poll(&mut waker.context(), pending, &upload(headers)).is_pending(), "{guest}");
        }
        // They come back in another order: yes, no, and a failure.
        let answers = [
            Some(CalloutResponse {
                status: 200,
                headers: vec![(b"X-Answer".to_vec(), b"yes".to_vec())],
                body: b"steal".to_vec(),
                ..Default::default()
            }),
            Some(CalloutResponse { status: 403, ..Default::default() }),
            None,
        ];
        for (index, answer) in [2, 0, 1].into_iter().zip(answers.into_iter().cycle().skip(2).take(3)) {
            assert_eq!(chain.on_callout(callouts[index].id, answer), None, "{guest}");
            assert!(wakers[index].take(), "{guest}: nobody is woken");
        }
        let mut outcomes = Vec::new();
        for ((pending, waker), headers) in waiting.iter_mut().zip(&wakers).zip(&headers) {
            let std::task::Poll::Ready(step) = chain.poll(&mut waker.context(), pending, &upload(headers)) else {
                panic!("{guest}: it waits on")
            };
            outcomes.push(decided(step));
        }
        let [stolen, refused, failed] = outcomes.try_into().unwrap();
        assert_eq!((stolen.verdict, stolen.request_edits), (Verdict::Steal, vec![set("x-asked", "yes")]), "{guest}");
        let no = LocalResponse { status: 403, headers: vec![], body: b"the other one says no".to_vec() };
        assert_eq!((refused.verdict, failed.verdict), (Verdict::Respond(no.clone()), Verdict::Respond(no)), "{guest}");
        assert!(chain.take_callouts().is_empty());
        // Answers to what nobody asked, and late ones, are nothing.
        assert_eq!(chain.on_callout(callouts[0].id, None), None);
    }
}

#[test]
fn a_callout_that_comes_after_its_request_has_gone_harms_nobody() {
    for guest in GUESTS {
        let (filter, _) = proxy_wasm_host::with_upstream(guest, "callout auth");
        let mut chain = Chain::new(vec![filter]);
        let Step::Waits(pending) = chain.on_request(&get(&[])) else { panic!() };
        drop(pending);
        let callouts = chain.take_callouts();
        assert_eq!(
            chain.on_callout(callouts[0].id, Some(CalloutResponse { status: 200, body: b"steal".to_vec(), ..Default::default() })),
            None,
            "{guest}"
        );
        assert!(matches!(chain.on_request(&get(&[])), Step::Waits(_)));
    }
}

#[test]
fn callouts_are_denied_unless_declared() {
    for guest in GUESTS {
        let (filter, log) = filter(guest, "callout auth");
        let mut chain = Chain::new(vec![filter]);
        assert_eq!(decided(chain.on_request(&get(&[]))).verdict, Verdict::Pass);
        assert!(chain.take_callouts().is_empty());
        assert!(
            lines(&log).iter().any(|line| line.contains("its HTTP call to \"auth\" is not made: its upstream is not declared")),
            "{:?}",
            lines(&log)
        );
    }
}

#[test]
fn the_well_known_properties_are_there() {
    for guest in GUESTS {
        let (filter, log) = filter(guest, "properties");
        let headers = fields(&[("Host", "shop:80"), ("X-User", "me"), ("User-Agent", "curl"), ("x-request-id", "77")]);
        let outcome = decided(Chain::new(vec![filter]).on_request(&request("GET", "/a/b?c=d", &headers)));
        assert_eq!(outcome.faults, [], "{guest}");
        let expected: &[&str] = match guest {
            "rust" => &[
                "request.path = Some(\"/a/b?c=d\")",
                "request.url_path = Some(\"/a/b\")",
                "request.query = Some(\"c=d\")",
                "request.host = Some(\"shop:80\")",
                "request.scheme = Some(\"http\")",
                "request.method = Some(\"GET\")",
                "request.referer = None",
                "request.useragent = Some(\"curl\")",
                "request.id = Some(\"77\")",
                "request.protocol = Some(\"HTTP/1.1\")",
                "source.address = 192.0.2.7:50312",
                "source.port = 50312",
                "destination.address = [2001:db8::1]:80",
                "destination.port = 80",
                "request.headers.x-user = me",
                "plugin_name = rust",
            ],
            _ => &[
                "request.path = /a/b?c=d",
                "request.url_path = /a/b",
                "request.query = c=d",
                "request.host = shop:80",
                "request.scheme = http",
                "request.method = GET",
                "request.protocol = HTTP/1.1",
                "source.address = 192.0.2.7:50312, port = 50312",
                "destination.address = [2001:db8::1]:80, port = 80",
                "request.headers has 7",
            ],
        };
        assert_eq!(lines(&log)[1..], *expected, "{guest}");
    }
}

#[test]
fn shared_data_is_one_for_all_threads() {
    for guest in GUESTS {
        let (filter, _) = filter(guest, "shared");
        let counts = std::thread::scope(|scope| {
            let count = || {
                let mut chain = Chain::new(vec![filter.clone()]);
                let mut counts = Vec::new();
                for _ in 0..200 {
                    let mut outcome = decided(chain.on_request(&get(&[])));
                    assert_eq!(outcome.faults, [], "{guest}");
                    let Some(Edit::Set { value, .. }) = outcome.request_edits.pop() else { panic!() };
                    counts.push(String::from_utf8(value).unwrap().parse::<u32>().unwrap());
                }
                counts
            };
            let threads = [scope.spawn(count), scope.spawn(count)];
            threads.map(|thread| thread.join().unwrap()).concat()
        });
        let mut counts = counts;
        counts.sort_unstable();
        assert!(counts.iter().copied().eq(1..=400), "{guest}: an update was lost");
    }
}

#[test]
fn items_of_a_queue_are_heard_of_off_the_request_path() {
    for guest in GUESTS {
        let (filter, log) = filter(guest, "queue");
        let (mut chain, mut other) = (Chain::new(vec![filter.clone()]), Chain::new(vec![filter]));
        let woken = Woken::default();
        chain.background(&mut woken.context());
        for path in ["/1", "/2"] {
            assert_eq!(decided(chain.on_request(&request("GET", path, &[]))).faults, [], "{guest}");
        }
        assert!(!log.lock().unwrap().iter().any(|line| line.starts_with("item")), "{guest}");
        assert!(woken.take());
        chain.background(&mut woken.context());
        // And of what another thread puts there, the thread that listens hears.
        assert_eq!(decided(other.on_request(&request("GET", "/3", &[]))).faults, [], "{guest}");
        chain.background(&mut woken.context());
        other.background(&mut Woken::default().context());
        let items: Vec<_> = log.lock().unwrap().clone().into_iter().filter(|line| line.starts_with("item")).collect();
        assert_eq!(items, ["item /1", "item /2", "item /3"], "{guest}");
    }
}

#[test]
fn ticks_come_without_a_request() {
    for guest in GUESTS {
        let (filter, _) = filter(guest, "tick");
        let mut chain = Chain::new(vec![filter]);
        let woken = Woken::default();
        for _ in 0..3 {
            let next = chain.background(&mut woken.context()).next.unwrap();
            assert!(next <= Duration::from_millis(10), "{guest}: {next:?}");
            std::thread::sleep(next);
        }
        chain.background(&mut woken.context());
        let outcome = decided(chain.on_request(&get(&[])));
        assert_eq!(outcome.request_edits, [set("x-ticks", "3")], "{guest}");
    }
    // A tick makes calls too.
    let (filter, log) = proxy_wasm_host::with_upstream("rust", "tick-call");
    let mut chain = Chain::new(vec![filter]);
    while chain.background(&mut Woken::default().context()).next.is_some_and(|next| {
        std::thread::sleep(next);
        chain.background(&mut Woken::default().context());
        lines(&log).len() < 2
    }) {
        for callout in chain.take_callouts() {
            let response = CalloutResponse { status: 200, body: b"hello".to_vec(), ..Default::default() };
            assert_eq!(chain.on_callout(callout.id, Some(response)), None);
        }
    }
    assert!(lines(&log)[1].starts_with("the tick's call: 1 headers, Some("), "{:?}", lines(&log));
}

#[test]
fn metrics_are_counted() {
    for guest in GUESTS {
        let (filter, _) = filter(guest, "metrics");
        let mut chain = Chain::new(vec![filter.clone()]);
        for (path, count) in [("/a", "1"), ("/abc", "2")] {
            let outcome = decided(chain.on_request(&request("GET", path, &[])));
            assert_eq!((outcome.request_edits, outcome.faults), (vec![set("x-count", count)], vec![]), "{guest}");
        }
        let metrics = filter.metrics();
        let value = |name: &str| metrics.iter().find(|metric| metric.name == name).map(|metric| &metric.value);
        assert_eq!(value("requests"), Some(&MetricValue::Counter(2)), "{guest}");
        assert_eq!(value("last_path_length"), Some(&MetricValue::Gauge(4)), "{guest}");
        let Some(MetricValue::Histogram { buckets, sum }) = value("path_length") else { panic!("{guest}: {metrics:?}") };
        assert_eq!((buckets.iter().sum::<u64>(), *sum), (2, 6), "{guest}");
    }
}

#[test]
fn what_is_not_supported_fails_without_a_panic() {
    for guest in GUESTS {
        let (filter, _) = proxy_wasm_host::with_upstream(guest, "unsupported");
        let outcome = decided(Chain::new(vec![filter]).on_request(&get(&[])));
        assert_eq!((outcome.verdict, outcome.faults), (Verdict::Steal, vec![]), "{guest}");
    }
}

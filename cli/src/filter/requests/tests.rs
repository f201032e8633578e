//! The three formats, and what is wrong with files of them.

use super::*;

#[test]
fn requests_as_people_write_them() {
    let text = "# for the team\n\n### one\n# expect: steal\n# expect-response-header: x-a: b\n# note: ours\nPOST /a?b HTTP/2\nhost: x\nX-User:  me \n\n{\n\n}\n\n### \n\nGET /\n";
    let requests = http::parse(text).unwrap();
    let [post, get] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!((post.name.as_deref(), post.place.as_str(), post.version), (Some("one"), "line 7", Version::Http2));
    assert_eq!((post.method.as_str(), post.path.as_str(), post.body.as_slice()), ("POST", "/a?b", b"{\n\n}".as_slice()));
    assert_eq!(post.headers, [("host".into(), "x".into()), ("X-User".into(), "me".into())]);
    assert_eq!(post.expected.verdict.as_deref(), Some("steal"));
    assert_eq!(post.expected.response_headers, [("x-a".into(), "b".into())]);
    assert!(get.name.is_none() && get.expected.is_empty() && get.body.is_empty());
}

#[test]
fn one_json_object_a_line() {
    let text = r#"{"path": "/a", "headers": {"b": "c"}, "expect": "pass", "client": "10.0.0.1:5"}

{"method": "PUT", "headers": [["a", "1"], ["a", "2"]], "body": "x", "expect": {"verdict": "respond", "status": 403}, "response": {"status": 200}}"#;
    let requests = jsonl::parse(text).unwrap();
    assert_eq!((requests[0].method.as_str(), requests[0].client.port()), ("GET", 5));
    assert_eq!((requests[1].place.as_str(), requests[1].headers.len(), requests[1].expected.status), ("line 3", 2, Some(403)));
    assert_eq!(requests[1].response.as_ref().unwrap().status, 200);
}

#[test]
fn recordings() {
    let text = r#"{"log": {"entries": [
        {"request": {"method": "GET", "url": "https://shop/cart?a=1#top", "httpVersion": "h2", "headers": [{"name": ":path", "value": "/"}, {"name": "x", "value": "y"}]},
         "response": {"status": 200, "headers": [], "content": {"text": "hi"}}, "_mirrord": {"verdict": "steal"}},
        {"request": {"method": "POST", "url": "http://shop", "headers": [], "postData": {"text": "a=b"}}, "response": {"status": 0}}]}}"#;
    let requests = har::parse(text).unwrap();
    assert_eq!((requests[0].path.as_str(), requests[0].headers.len(), requests[0].version), ("/cart?a=1", 1, Version::Http2));
    assert_eq!(
        (requests[0].expected.verdict.as_deref(), requests[0].response.as_ref().unwrap().body.as_slice()),
        (Some("steal"), b"hi".as_slice())
    );
    assert_eq!((requests[1].path.as_str(), requests[1].body.as_slice(), requests[1].response.is_none()), ("/", b"a=b".as_slice(), true));
}

#[test]
fn our_own_recordings_are_asked_as_they_were_live_and_in_that_order() {
    let text = r#"{"log": {"entries": [
        {"startedDateTime": "2026-11-24T18:55:02.5Z", "request": {"method": "OPTIONS", "url": "http://shop/*", "headers": [{"name": "authorization", "value": "…"}]},
         "_mirrord": {"verdict": "mirror", "said": "steal", "path": "*", "client": "[fd00::1]:5", "destination": "10.0.0.2:80"}},
        {"startedDateTime": "2026-11-24T18:55:01.25Z", "request": {"method": "POST", "url": "http://shop/", "httpVersion": "HTTP/2",
         "headers": [{"name": ":authority", "value": "shop"}], "postData": {"mimeType": "", "text": "/wD+", "_encoding": "base64"}},
         "response": {"status": 200, "content": {"text": "TQ==", "encoding": "base64"}}, "_mirrord": {"partial": true}}]}}"#;
    let requests = har::parse(text).unwrap();
    let [post, options] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!(
        (post.place.as_str(), post.body.as_slice(), post.headers[0].0.as_str()),
        ("log.entries[1]", b"\xff\x00\xfe".as_slice(), ":authority")
    );
    assert_eq!(post.response.as_ref().unwrap().body, b"M");
    assert!(post.lacks.unwrap().contains("--body") && options.lacks.unwrap().contains("--show-credentials"));
    assert_eq!((options.path.as_str(), options.expected.verdict.as_deref()), ("*", Some("steal")));
    assert_eq!((options.client.to_string(), options.destination.to_string()), ("[fd00::1]:5".into(), "10.0.0.2:80".into()));
}

#[test]
fn what_is_wrong_says_in_which_line() {
    let http: [(&str, &str, &str); 7] = [
        ("GET", "line 1", "no beginning"),
        ("\nGET / HTTP/3", "line 2", "no version"),
        ("GET /\nno header", "line 2", "no header"),
        ("# expect: stael\nGET /", "line 1", "no verdict"),
        ("# expect-headers: a\nGET /", "line 1", "no expectation"),
        ("GET /\n\n###\n# response: 1000\nGET /", "line 4", "no status"),
        ("GET orders", "line 1", "no path"),
    ];
    for (text, place, problem) in http {
        let wrong = http::parse(text).unwrap_err();
        assert!(wrong.place == place && wrong.problem.contains(problem) && !wrong.help.is_empty(), "{text:?}: {wrong}");
    }
    let lines = [
        ("{}\n{", "line 2"),
        ("{\"expect\": \"x\"}", "line 1"),
        ("{\"pth\": \"/\"}", "line 1"),
        ("{\"headers\": {\"a b\": \"\"}}", "line 1"),
    ];
    for (text, place) in lines {
        assert_eq!(jsonl::parse(text).unwrap_err().place, place, "{text}");
    }
    for text in ["{\n\"log\": ", "{}", r#"{"log": {"entries": [{}]}}"#] {
        assert!(har::parse(text).is_err(), "{text}");
    }
    assert_eq!(har::parse("{\n\"log\": ,}").unwrap_err().place, "line 2");
}

//! Declared filters on a real pod: conditions on headers, paths, methods and JSON bodies, from flags and from the config file, and as
//! links of a chain with a Wasm filter.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::fs;

use mirrord_tests::{
    Exec, Pod, Program,
    looking::explained,
    pod::{WEB, WEB_TOO},
    wait::PATIENCE,
};

/// Who answers: the pod, or a program by its name.
fn who(pod: &Pod, method: &str, path: &str, headers: &[&str], body: &str) -> String {
    let request = headers.iter().fold(pod.request(pod.address(WEB), method, path), |request, header| request.with(header));
    let request = if body.is_empty() { request } else { request.body(body.as_bytes()) };
    request.send().who().trim_start_matches("program ").to_owned()
}

#[test]
fn headers_paths_and_methods_pick_requests() {
    let pod = Pod::new();
    let options = "--header-filter ^x-user:\\sme$ --path-filter ^/mine(/|$) --method-filter PUT";
    let session = Exec::steal(&pod).option(options).run(&Program::c("mine", &[WEB]));
    for (method, path, headers, expected) in [
        ("GET", "/", &["X-User: ME"][..], "mine"),
        ("GET", "/", &["x-user: you"], "pod"),
        ("GET", "/mine/7?a=b", &[], "mine"),
        ("GET", "/mines", &[], "pod"),
        ("PUT", "/", &[], "mine"),
    ] {
        assert_eq!(who(&pod, method, path, headers, ""), expected, "{method} {path} {headers:?}");
    }
    drop(session);
    pod.assert_pristine();
}

#[test]
fn the_config_file_combines_conditions_with_a_wasm_filter() {
    let pod = Pod::new();
    let module = mirrord_tests::machine::filter("header");
    let file = pod.folder.path().join("mirrord.yaml");
    let text = format!(
        "target: {}\nfeature:\n  network:\n    incoming:\n      mode: steal\n      http_filter:\n        all_of:\n          - path: ^/orders\n          \
         - not: {{ any_of: [{{ method: DELETE }}, {{ header: '^user-agent: kube-probe' }}] }}\n      filters:\n        - path: {}\n          \
         config: {{ name: x-user, value: me }}\n          on_failure: deny\n",
        pod.target(),
        module.display()
    );
    fs::write(&file, text).unwrap();
    let session = Exec::plain(&pod).option(&format!("-f {}", file.display())).run(&Program::c("mine", &[WEB]));
    for (method, path, headers, expected) in [
        ("GET", "/orders/1", &[][..], "mine"),
        ("DELETE", "/orders/1", &[], "pod"),
        ("GET", "/orders/1", &["user-agent: kube-probe/1.34"], "pod"),
        ("DELETE", "/orders/1", &["x-user: me"], "mine"),
        ("GET", "/", &["x-user: me"], "mine"),
        ("GET", "/", &[], "pod"),
    ] {
        assert_eq!(who(&pod, method, path, headers, ""), expected, "{method} {path} {headers:?}");
    }
    drop(session);
    pod.assert_pristine();
}

#[test]
fn a_condition_for_some_ports_leaves_the_others_whole_to_the_session() {
    let pod = Pod::new();
    let file = pod.folder.path().join("mirrord.toml");
    let text = "[feature.network.incoming]\nmode = \"steal\"\nhttp_filter = { header_filter = \"^x-team: {{ key }}$\", ports = [80] }\n";
    fs::write(&file, text).unwrap();
    let exec = Exec::plain(&pod).option(&format!("-f {} --key blue", file.display()));
    let session = exec.run(&Program::c("mine", &[WEB, WEB_TOO]));
    let ask = |port: u16, header: &str| {
        let request = pod.request(pod.address(port), "GET", &format!("/{port}")).with(header);
        request.send().who().trim_start_matches("program ").to_owned()
    };
    assert_eq!((ask(WEB, "X-Team: BLUE"), ask(WEB, "x-team: red")), ("mine".into(), "pod".into()));
    assert_eq!((ask(WEB_TOO, "x-team: red"), ask(WEB_TOO, "x-team: blue")), ("mine".into(), "mine".into()));
    // There nothing is read, and so nothing decided.
    let told = explained(&pod, &[]);
    assert!(told.contains("GET /80 ") && !told.contains("GET /8080"), "{told}");
    session.end();
    // Whole means whatever it is: what is no HTTP reaches the program there, and the pod on the port that is filtered.
    let session = Exec::plain(&pod).option(&format!("-f {}", file.display())).run(&Program::raw("raw", &[WEB, WEB_TOO]));
    let answer = |port: u16| {
        let mut client = pod.connect(port);
        client.send(b"\x00 no http\r\n\r\n");
        client.finish();
        String::from_utf8_lossy(&client.ending(PATIENCE).0).into_owned()
    };
    assert!(answer(WEB_TOO).contains("raw") && answer(WEB_TOO).contains("no http"), "{}", answer(WEB_TOO));
    assert!(answer(WEB).starts_with("HTTP/1.1 400") && answer(WEB).contains("nginx"), "{}", answer(WEB));
    session.end();
    // The variable counts before the file, and names both.
    let both = Exec::plain(&pod).option(&format!("-f {}", file.display())).variable("MIRRORD_HTTP_FILTER_PORTS", "80;8080");
    let session = both.variable("MIRRORD_KEY", "red").run(&Program::c("mine", &[WEB, WEB_TOO]));
    assert_eq!((ask(WEB_TOO, "x-team: red"), ask(WEB_TOO, "x-team: blue")), ("mine".into(), "pod".into()));
    session.end();
    pod.assert_pristine();
}

#[test]
fn a_condition_on_the_body_holds_only_the_requests_that_it_decides() {
    let pod = Pod::new();
    let condition = r#"{"all_of":[{"path":"^/orders"},{"body":"json","query":"$.items[*].price","matches":"^[0-9]{4,}$"}]}"#;
    let session = Exec::steal(&pod).option(&format!("--http-filter {condition}")).run(&Program::c("mine", &[WEB]));
    assert_eq!(who(&pod, "POST", "/orders", &[], r#"{"items": [{"price": 12}, {"price": 1234}]}"#), "mine");
    assert_eq!(who(&pod, "GET", "/", &[], ""), "pod");
    for body in [r#"{"items": [{"price": 12}]}"#, "{", &format!(r#"{{"items": [{{"price": 1234}}], "x": "{}"}}"#, "x".repeat(70_000))] {
        assert_eq!(who(&pod, "POST", "/orders", &[], body), "pod", "{} bytes", body.len());
    }
    assert_eq!(session.seen().len(), 1, "{:?}", session.log());
    drop(session);
    pod.assert_pristine();
}

#[test]
fn a_condition_that_is_wrong_starts_nothing() {
    let pod = Pod::new();
    let cases = [
        ("--header-filter (", "no regular expression"),
        ("--http-filter {\"all_of\":[{\"path\":\"\"}]}", "all_of[0].path"),
        ("--http-filter {\"header_filter\":\"a\",\"path_filter\":\"b\"}", "side by side"),
    ];
    for (option, expected) in cases {
        let output = Exec::steal(&pod).option(option).command(&["true".into()]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && error.contains(expected) && error.contains("help:"), "{option}: {error}");
    }
    pod.assert_pristine();
}

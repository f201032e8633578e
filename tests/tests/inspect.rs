//! `mirrord inspect`: every exchange is shown as it was and counted, whoever answers it and however fast they come; the pod and its
//! clients feel nothing of it, and nothing of it is left.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use mirrord_tests::{
    Exec, Others, Pod, Program, eventually, http2,
    looking::Inspect,
    machine,
    pod::{WEB, WEB_H2},
    processes::Process,
    programs::{PYTHON, source},
    servers::in_pod,
    session::ME,
};
use serde_json::Value;

/// Requests a second of the load, by so many clients.
const RATE: u64 = 5000;
const CLIENTS: u64 = 50;
/// How long each measurement lasts.
const SECONDS: u64 = 4;
/// Pairs of measurements: without and with somebody who inspects.
const ROUNDS: usize = 5;
/// Tries of that, on a machine that does other things too.
const SERIES: usize = 3;
/// Times the processor time that a request may take while somebody inspects.
const MOST: f64 = 1.05;

/// The columns of the line about a request: status, up, down, protocol.
#[track_caller]
fn columns(output: &str, request: &str) -> [String; 4] {
    let line = output.lines().find(|line| line.ends_with(request) || line.contains(&format!("{request}  ")));
    let line = line.unwrap_or_else(|| panic!("nothing about {request} in\n{output}"));
    let words: Vec<_> = line.split_whitespace().collect();
    [words[2].into(), words[5..7].concat(), words[7..9].concat(), words[9].into()]
}

/// The exchanges of JSON lines, and the summary.
fn exchanges(output: &str) -> (Vec<Value>, Value) {
    let mut lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    let summary = lines.pop().unwrap()["summary"].clone();
    (lines.into_iter().map(|line| line["exchange"].clone()).collect(), summary)
}

#[test]
fn each_exchange_is_a_plain_line_and_nothing_is_left() {
    let mut pod = Pod::new();
    in_pod(&mut pod, &Program::new(&[PYTHON, &source("grpc_server.py")], "grpc", &[9090]));
    let inspect = Inspect::start(&pod, &["--body", "5"]);
    assert!(inspect.errors().contains("ports 80, 8080, 8082, 9090 "), "{}", inspect.errors());
    let mut client = pod.connect(WEB);
    client.get("/get?a=b&token=abc", &[]);
    client.send(b"POST /chunks HTTP/1.1\r\nHost: pod\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7;x=y\r\n, world\r\n0\r\n\r\n");
    assert_eq!(client.response().text(), "pod POST /chunks\n");
    client.send(b"HEAD /head HTTP/1.1\r\nHost: pod\r\n\r\n");
    thread::sleep(Duration::from_millis(50));
    drop(client);
    let request = http2::Request { method: "POST", path: "/two".into(), mine: false, body: vec![b'x'; 70_000] };
    http2::exchange(&pod.clients, pod.address(WEB_H2), vec![request])[0].as_ref().unwrap();
    let mut grpc = pod.clients.command(PYTHON);
    grpc.arg(source("grpc_client.py")).arg(pod.address(9090).to_string()).arg("every-kind").stdin(Stdio::null());
    machine::output(&mut grpc);
    inspect.wait_for(&["/get?a=b&token=…", "/chunks", "/head", "/two", "grpc"]);
    let output = inspect.end();
    let want = |columns: [&str; 4]| columns.map(str::to_owned);
    assert_eq!(columns(&output, "GET /get?a=b&token=…"), want(["200", "0B", "13B", "h1"]), "{output}");
    assert_eq!(columns(&output, "POST /chunks"), want(["200", "12B", "17B", "h1"]));
    assert_eq!(columns(&output, "HEAD /head")[..3], want(["200", "0B", "0B", ""])[..3]);
    assert_eq!(columns(&output, "POST /two"), want(["200", "70.0kB", "14B", "h2"]));
    assert!(output.contains("  200/0  "), "no gRPC status in\n{output}");
    assert!(!output.contains('\x1b'), "colours in a file");
    for body in ["  > hello…\n", "  < pod P…\n", "  > xxxxx…\n"] {
        assert!(output.contains(body), "no {body:?} in\n{output}");
    }
    assert!(output.contains(" requests in ") && output.contains("  POST /two\n"), "no summary in\n{output}");
    pod.assert_pristine();
}

#[test]
fn a_har_file_is_one_and_tells_who_answered_and_no_credentials() {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB]));
    let file = |name: &str| pod.folder.path().join(name);
    let masked = Inspect::start(&pod, &["-p", "80", "--body", "100", "--har", file("masked.har").to_str().unwrap()]);
    let shown = Inspect::start(&pod, &["-p", "80", "--show-credentials", "--har", file("shown.har").to_str().unwrap()]);
    let filter = machine::filter("header");
    let words = ["--filter", filter.to_str().unwrap(), "--filter-config", mirrord_tests::session::USER_ME];
    let would = Inspect::start(&pod, &[&["-p", "80", "--json", "--picked"][..], &words].concat());
    let mut client = pod.connect(WEB);
    for number in 0..20 {
        let mine = if number % 3 == 0 { ME } else { "x-user: you" };
        client.get(&format!("/{number}?q=%20a&password=p1"), &[mine, "authorization: Bearer s3cr3t", "cookie: a=s3cr3t; b=1"]);
    }
    client.send(b"POST /binary HTTP/1.1\r\nHost: pod\r\nContent-Type: application/x\r\nContent-Length: 3\r\n\r\n\xff\x00\xfe");
    client.response();
    for inspect in [masked, shown] {
        inspect.wait_for(&["/binary"]);
        inspect.end();
    }
    would.wait_for(&["/18?"]);
    let (picked, summary) = exchanges(&would.end());
    assert_eq!((picked.len(), &summary["begun"]), (7, &21.into()));
    assert!(picked.iter().all(|exchange| exchange["would"]["verdict"] == "steal" && exchange["verdict"] == "steal"), "{picked:?}");

    let (masked, masked_text) = har(&file("masked.har"));
    let (_, shown_text) = har(&file("shown.har"));
    assert!(!masked_text.contains("s3cr3t") && !masked.iter().any(|entry| entry["request"].to_string().contains("p1")), "{masked_text}");
    assert!(shown_text.contains("Bearer s3cr3t") && shown_text.contains("p1"), "{shown_text}");
    for (number, entry) in masked.iter().enumerate().take(20) {
        let verdict = if number % 3 == 0 { "steal" } else { "pass" };
        assert_eq!(entry["_mirrord"]["verdict"], verdict, "{entry}");
        assert_eq!(entry["request"]["queryString"][0], serde_json::json!({"name": "q", "value": " a"}));
        let who = entry["response"]["content"]["text"].as_str().unwrap();
        assert!(who.starts_with(if verdict == "steal" { "program one" } else { "pod" }), "{entry}");
    }
    assert_eq!(masked[20]["request"]["postData"]["text"], "/wD+");
    session.end();
    drop(client);
    pod.assert_pristine();
}

/// The entries of a HAR file by their time, once it is known to be one.
#[track_caller]
fn har(path: &Path) -> (Vec<Value>, String) {
    let check = "import json, sys, jsonschema; jsonschema.validate(json.load(open(sys.argv[1])), json.load(open(sys.argv[2])))";
    machine::run(Command::new(PYTHON).args(["-c", check]).arg(path).arg(source("har-1.2.schema.json")));
    let text = fs::read_to_string(path).unwrap();
    let har: Value = serde_json::from_str(&text).unwrap();
    let mut entries = har["log"]["entries"].as_array().unwrap().clone();
    entries.sort_by_key(|entry| entry["startedDateTime"].as_str().unwrap().to_owned());
    (entries, text)
}

#[test]
fn a_reader_that_stands_still_loses_lines_and_no_count_and_others_feel_nothing() {
    let pod = Pod::new();
    let inspect = Inspect::start(&pod, &["-p", "80", "--json"]);
    let others = Others::load(&pod);
    others.wait_for(1000);
    inspect.process().stop();
    let agent = pod.agent();
    let before = agent.memory();
    let requests = load(&pod, 40_000, None);
    let grown = agent.memory().saturating_sub(before);
    assert!(grown < 64 << 20, "the agent has grown by {grown} bytes");
    inspect.process().signal(libc::SIGCONT);
    let report = others.stop();
    report.assert_undisturbed(1000);
    let (told, summary) = exchanges(&inspect.end());
    let number = |name: &str| summary[name].as_u64().unwrap();
    assert_eq!(number("begun"), requests + report.answered, "{summary}");
    assert_eq!(number("dropped") + told.len() as u64, number("ended"), "{summary}");
    pod.assert_pristine();
}

#[test]
fn on_a_terminal_lines_fit_it_and_are_coloured_and_ctrl_c_ends_it_with_a_summary() {
    const COLUMNS: u16 = 120;
    let pod = Pod::new();
    let terminal = Inspect::on_terminal(&pod, &["-p", "80"], COLUMNS, &[]);
    let quiet = Inspect::on_terminal(&pod, &["-p", "80"], COLUMNS, &[("NO_COLOR", "1")]);
    let mut client = pod.connect(WEB);
    client.get("/short", &[]);
    client.get(&format!("/{}/end", "long".repeat(60)), &[]);
    client.get("/files/none", &[]);
    terminal.wait_for(&["/short", "/end", "/files/none"]);
    load(&pod, 2000, None);
    terminal.wait_for(&["more requests, too fast to read (--all shows them)"]);
    let (output, plain) = (terminal.interrupt(), quiet.interrupt());
    for part in ["\x1b[32m   200\x1b[0m", "\x1b[33m   404\x1b[0m", "\x1b[2mTIME", "GET /longlong", "…", " requests in "] {
        assert!(output.contains(part), "{part:?} is not in\n{output}");
    }
    assert!(!plain.contains('\x1b') && plain.contains("/short"), "{plain}");
    for line in plain.lines().filter(|line| line.contains(" GET /")) {
        assert!(line.trim_end().chars().count() <= COLUMNS.into(), "{line}");
    }
    let shown = output.lines().filter(|line| line.contains(" GET /files/1k")).count();
    assert!(shown < 500, "{shown} lines of 2000 in one moment: nobody reads so fast");
    drop(client);
    pod.assert_pristine();
}

#[test]
fn the_summary_has_each_route_once_with_how_long_its_slow_ones_took() {
    const SLOW: u64 = 500_000;
    let pod = Pod::new();
    let slow = r#"{"header":"x-slow","value":"1","percent":100,"delay_ms":500,"then":"pass"}"#;
    let session = Exec::steal(&pod).filter("fault", slow).run(&Program::c("one", &[WEB]));
    let inspect = Inspect::start(&pod, &["-p", "80", "--json"]);
    let mut client = pod.connect(WEB);
    for number in 0..100 {
        // Every 25th is held for half a second by the filter of a session that somebody else has.
        let header = if number % 25 == 24 { "x-slow: 1" } else { "x-slow: 0" };
        client.get(&format!("/item/{number}?page={number}"), &[header]);
    }
    client.get("/files/none", &[]);
    client.get("/last", &[]);
    inspect.wait_for(&["/last"]);
    let (_, summary) = exchanges(&inspect.end());
    let routes = summary["routes"].as_array().unwrap();
    let route = |name: &str| routes.iter().find(|route| route["route"] == name).unwrap_or_else(|| panic!("no {name} in {summary}"));
    assert_eq!((routes.len(), &route("GET /item/:id")["requests"]), (3, &100.into()), "{summary}");
    let number = |name: &str| route("GET /item/:id")[name].as_u64().unwrap();
    let [p50, p90, p99, max] = ["p50", "p90", "p99", "max"].map(number);
    assert!(p50 <= p90 && p90 < SLOW / 2 && p99 >= SLOW && max >= p99 && max < 10 * SLOW, "{p50} {p90} {p99} {max}");
    session.end();
    drop(client);
    pod.assert_pristine();
}

#[test]
fn who_reads_no_further_ends_it_also_where_nothing_more_comes() {
    let pod = Pod::new();
    for words in [&["inspect", "-p", "80"][..], &["inspect", "-p", "80", "--json"]] {
        let mut inspect = Inspect::piped(&pod, words, "head -1", "inspecting ");
        pod.get("/only").send();
        let status = inspect.wait();
        assert!(status.success() && inspect.output().lines().count() == 1, "{words:?}, {status}: {}", inspect.output());
        assert_eq!(inspect.errors().lines().count(), 1, "{}", inspect.errors());
    }
    pod.assert_pristine();
}

#[test]
fn a_reader_that_stands_still_keeps_no_session_that_was_told_to_end() {
    let pod = Pod::new();
    let mut patient = Inspect::unread(&pod, &["-p", "80", "--json"]);
    let mut hasty = Inspect::unread(&pod, &["-p", "80", "--json"]);
    let requests = load(&pod, 20_000, None);
    for child in [&patient, &hasty] {
        Process(child.id()).signal(libc::SIGINT);
    }
    // The pod has its port back, though neither could say its last words.
    eventually("the port is given back", || (!pod.redirects(80)).then_some(()));
    assert!(patient.try_wait().unwrap().is_none() && hasty.try_wait().unwrap().is_none(), "there is much that nobody has read");
    Process(hasty.id()).signal(libc::SIGINT);
    assert_eq!(eventually("a second one ends it", || hasty.try_wait().unwrap()).code(), Some(130));
    let mut output = String::new();
    patient.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert!(patient.wait().unwrap().success());
    let (told, summary) = exchanges(&output);
    let number = |name: &str| summary[name].as_u64().unwrap();
    assert_eq!((number("begun"), number("dropped") + told.len() as u64), (requests, number("ended")), "{summary}");
    pod.assert_pristine();
}

#[test]
fn at_five_thousand_requests_a_second_each_is_counted_and_costs_the_pod_next_to_nothing() {
    let pod = Pod::alone();
    // A session that reads every request and takes none: without it, too, there is an agent in the way.
    let session = Exec::steal_mine(&pod).run(&Program::c("one", &[WEB]));
    load(&pod, RATE, Some(RATE));
    // What else this machine does costs either side of a pair; a series in which it did little is enough.
    let mut medians = Vec::new();
    while medians.len() < SERIES && medians.last().is_none_or(|median| *median > MOST) {
        medians.push(median_cost(&pod));
    }
    assert!(medians.last().is_some_and(|median| *median <= MOST), "times the processor time, in each series: {medians:.3?}");
    session.end();
}

/// How many times the processor time a request takes while somebody inspects: the median of some pairs of runs.
fn median_cost(pod: &Pod) -> f64 {
    let mut costs: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let without = cost(pod);
            let inspect = Inspect::start(pod, &["-p", "80"]);
            let with = cost(pod);
            let output = inspect.end();
            let requests = RATE * SECONDS;
            let counted = format!("\n{},000 requests in ", requests / 1000);
            assert!(output.contains(&counted) && !output.contains("counted only"), "{}", &output[output.len().saturating_sub(1500)..]);
            assert_eq!(
                output.lines().filter(|line| line.contains(" GET /files/")).count() as u64,
                requests + 1,
                "a line each, and a route"
            );
            (with / without, without, with)
        })
        .collect();
    costs.sort_by(|a, b| a.0.total_cmp(&b.0));
    println!("processor time of nginx and agent with somebody who inspects, beside without: {costs:.3?}");
    costs[ROUNDS / 2].0
}

/// Processor time of a request in nginx and the agent, µs.
fn cost(pod: &Pod) -> f64 {
    let used = || -> f64 {
        let servers =
            mirrord_tests::processes::all().into_iter().filter(|process| process.program() == "nginx" && process.is_in(pod.inside.inode));
        servers.chain([pod.agent()]).map(nanoseconds).sum()
    };
    let before = used();
    let requests = load(pod, RATE * SECONDS, Some(RATE));
    (used() - before) / requests as f64 / 1000.0
}

/// Time on a processor of all threads, finer than ticks.
fn nanoseconds(process: Process) -> f64 {
    let threads = fs::read_dir(format!("/proc/{}/task", process.0)).into_iter().flatten().flatten();
    let spent =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok()?.split(' ').next()?.parse::<f64>().ok());
    spent.sum()
}

/// So many requests on kept connections, at a rate or as fast as they go; all must be answered.
#[track_caller]
fn load(pod: &Pod, requests: u64, rate: Option<u64>) -> u64 {
    fs::create_dir_all(pod.folder.path().join("files")).unwrap();
    fs::write(pod.folder.path().join("files/1k"), [b'x'; 1024]).unwrap();
    let mut command = pod.clients.command("h2load");
    command.args(["--h1", "-t", "1", "-n", &requests.to_string(), "-c", &CLIENTS.to_string()]);
    if let Some(rate) = rate {
        command.args(["--rps", &(rate / CLIENTS).to_string()]);
    }
    let output = machine::run(command.arg(format!("http://{}/files/1k", pod.address(WEB))));
    assert!(output.contains(&format!("{requests} succeeded, 0 failed")), "{output}");
    requests
}

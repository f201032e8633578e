//! Protocols beyond plain requests, with their real programs: WebSocket, server-sent events, 100-continue, CONNECT, upgrades;
//! and those that the gateway cannot read, redis, PostgreSQL, SMTP and SSH, the last two of which let the server speak first.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    fs,
    io::BufRead,
    process::Stdio,
    time::{Duration, Instant},
};

use mirrord_tests::{
    Client, Exec, Others, Pod, Program, eventually,
    http::{get, read_head},
    machine,
    pod::WEB,
    programs::{PYTHON, source},
    servers::{self, in_pod},
    session::ME,
};

const PORT: u16 = 9000;
const REDIS: u16 = 6379;
const POSTGRES: u16 = 5432;
const SMTP: u16 = 2525;
const SSH: u16 = 2222;
/// In which a server that speaks first must have been heard.
const AT_ONCE: Duration = Duration::from_millis(100);
const QUIET: Duration = Duration::from_secs(5);

fn python(source_name: &str, name: &str, port: u16) -> Program {
    Program::new(&[PYTHON, &source(source_name)], name, &[port])
}

/// Runs a command among the clients; gives what it printed, on both outputs.
fn client(pod: &Pod, program: &str, words: &[&str]) -> String {
    let output = machine::output(pod.clients.command(program).args(words).stdin(Stdio::null()));
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_websocket_passes_or_is_stolen_whole_with_its_messages_and_its_end() {
    let mut pod = Pod::new();
    let in_pod_log = in_pod(&mut pod, &python("websocket_server.py", "pod", PORT));
    let url = format!("ws://{}/chat", pod.address(PORT));
    let talk = |headers: &[&str]| client(&pod, PYTHON, &[&[&source("websocket_client.py"), &url[..]], headers].concat());
    let transcript = |who: &str| {
        format!(
            "hello from {who}\n4 MiB True\nfragments True\npong\n1000 messages True\nserver closed 4321 enough\nclient closed 4000 bye\n"
        )
    };
    assert_eq!(talk(&[]), transcript("pod"), "without mirrord");
    let session = Exec::steal_mine(&pod).run(&python("websocket_server.py", "one", PORT));
    assert_eq!(talk(&[]), transcript("pod"));
    assert_eq!(talk(&["x-user=you"]), transcript("pod"));
    assert_eq!(talk(&["x-user=me"]), transcript("one"));
    // How each of the three connections of a conversation ended. One that broke may be noticed when the next has begun.
    let told = |lines: Vec<String>, user: &str| {
        let count = |wanted: &str| lines.iter().filter(|line| *line == wanted).count();
        [count(&format!("opened user={user}")), count("closed 4321 enough"), count("closed 4000 bye"), count("closed 1006 ")]
    };
    eventually("the program sees three connections and how each ended", || (told(session.log(), "me") == [3, 1, 1, 1]).then_some(()));
    eventually("so does the pod's", || (told(servers::lines(&in_pod_log), "you") == [3, 3, 3, 3]).then_some(()));
    session.end();
    pod.assert_pristine();
}

#[test]
fn server_sent_events_arrive_when_they_are_sent() {
    let mut pod = Pod::new();
    in_pod(&mut pod, &python("sse_server.py", "pod", PORT));
    let session = Exec::steal_mine(&pod).run(&python("sse_server.py", "one", PORT));
    for (who, headers) in [("pod", &[][..]), ("one", &[ME])] {
        for path in ["/events/chunked", "/events/close"] {
            let mut events = pod.connect(PORT);
            events.send(&get(path, headers));
            // The head comes before there is any event, and an event before there is another.
            assert_eq!(read_head(events.reader()).unwrap().header("content-type").unwrap(), "text/event-stream");
            let mut times = Vec::new();
            for number in 0..20 {
                let start = Instant::now();
                let text = if number == 19 { "end".to_owned() } else { number.to_string() };
                assert_eq!(tell(&pod, &text, headers), format!("{who} told 1\n"));
                let event = next_event(&mut events);
                assert_eq!(event, format!("data: {who} {text}"));
                times.push(start.elapsed());
            }
            times.sort();
            println!("{who} {path}: an event took {:?} (median), {:?} at most", times[10], times[19]);
            assert!(times[10] < AT_ONCE, "{times:?}");
            let (rest, ending) = events.ending(QUIET);
            assert_eq!((rest.ends_with(b"0\r\n\r\n"), ending), (path.ends_with("chunked"), "closed"));
        }
    }
    assert_eq!(session.log().iter().filter(|line| line.ends_with("user=me")).count(), 2 * 21);
}

fn tell(pod: &Pod, text: &str, headers: &[&str]) -> String {
    let request = pod.request(pod.address(PORT), "GET", &format!("/tell/{text}"));
    headers.iter().fold(request, |request, header| request.with(header)).send().text()
}

/// The next line of an event stream that holds data; lines of chunk sizes are left out.
fn next_event(events: &mut Client) -> String {
    loop {
        let mut line = String::new();
        assert_ne!(events.reader().read_line(&mut line).unwrap(), 0, "the stream has ended");
        if line.starts_with("data:") {
            return line.trim_end().into();
        }
    }
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it_from_whoever_answers() {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).run(&Program::python("one", &[WEB]));
    let body = pod.folder.path().join("upload");
    fs::write(&body, vec![b'b'; 2_000_000]).unwrap();
    let url = format!("http://{}/upload", pod.address(WEB));
    let upload = |header: &str| {
        let start = Instant::now();
        // curl would send the body by itself after these 10 s.
        let words = format!("-v --expect100-timeout 10 -H Expect:100-continue -H {header} --data-binary @{} {url}", body.display());
        let told = pod.curl(&words);
        assert!(told.contains("< HTTP/1.1 100 Continue"), "{told}");
        assert!(start.elapsed() < Duration::from_secs(5), "{told}");
        told
    };
    assert!(upload("x-user:you").starts_with("pod POST /upload\n"));
    assert!(upload("x-user:me").starts_with("program one POST /upload body=2000000\n"));
    assert_eq!(session.seen().len(), 1);
}

#[test]
fn connect_opens_a_tunnel_to_whoever_answers_and_nothing_in_it_is_a_request() {
    let mut pod = Pod::new();
    in_pod(&mut pod, &python("connect_proxy.py", "pod", PORT));
    let session = Exec::steal_mine(&pod).run(&python("connect_proxy.py", "one", PORT));
    let proxy = format!("http://{}", pod.address(PORT));
    let through = |words: &str| pod.curl(&format!("--proxytunnel --noproxy none.invalid --proxy {proxy} {words}"));
    // In the tunnel each asks for what the other's filter would want.
    let twice = "http://there.test:81/1 http://there.test:81/2";
    assert_eq!(through(&format!("-H x-user:me {twice}")), "pod tunnel GET /1 HTTP/1.1\npod tunnel GET /2 HTTP/1.1\n");
    assert!(session.log()[1..].is_empty(), "{:?}", session.log());
    assert_eq!(through(&format!("--proxy-header x-user:me {twice}")), "one tunnel GET /1 HTTP/1.1\none tunnel GET /2 HTTP/1.1\n");
    assert_eq!(session.log()[1..], ["CONNECT there.test:81 HTTP/1.1"]);
}

#[test]
fn an_offer_to_upgrade_that_the_server_ignores_changes_nothing() {
    let pod = Pod::new();
    let session = Exec::steal_mine(&pod).run(&Program::python("one", &[WEB]));
    let url = format!("http://{}", pod.address(WEB));
    // curl offers `Upgrade: h2c`; after an answer of HTTP/1.1 it goes on with that on the same connection.
    assert_eq!(pod.curl(&format!("--http2 {url}/1 {url}/2")), "pod GET /1\npod GET /2\n");
    let mine = pod.curl(&format!("--http2 -H x-user:me {url}/1 {url}/2"));
    assert_eq!(mine, "program one GET /1 body=0\nprogram one GET /2 body=0\n");
    assert_eq!(session.seen().len(), 2);
}

#[test]
fn what_the_gateway_cannot_read_goes_to_the_pod_beside_a_filter_and_nobody_waits() {
    let mut pod = Pod::new();
    let servers = Servers::of(&pod, "pod");
    let programs = [&servers.redis, &servers.postgres, &servers.smtp, &servers.sshd.0];
    let logs: Vec<_> = programs.map(|program| in_pod(&mut pod, program)).into();
    let bare = use_all(&pod);
    let session = Exec::steal_mine(&pod).run(&Program::raw("one", &[REDIS, POSTGRES, SMTP, SSH]));
    let redirected = use_all(&pod);
    assert_eq!(redirected, bare);
    assert!(bare.contains("dir /") && bare.contains("pod-redis") && bare.contains("pod-postgres"), "{bare}");
    assert!(bare.contains(&servers.sshd.1), "the pod's own host key");
    let mails: Vec<_> = servers::lines(&logs[2]).into_iter().filter(|line| line.starts_with("mail")).collect();
    assert_eq!(mails, vec![format!("mail from=a@here.test peer={} size=300000", pod.client_v4); 2]);
    for port in [SMTP, SSH, REDIS] {
        let took = banner_time(&pod, port);
        println!("port {port}: the first answer after {took:?}");
    }
    let reached: Vec<_> = session.log().into_iter().filter(|line| !line.starts_with("listening")).collect();
    assert!(reached.is_empty(), "the program was reached: {reached:?}");
    // They did go by the agent: what it can read on those very ports, and the filter wants, is the program's.
    let mut mine = pod.connect(REDIS);
    mine.send(&get("/", &[ME]));
    // The program speaks no HTTP; that its connection is noted suffices.
    mine.read_up_to(1, QUIET);
    assert!(session.log().iter().any(|line| line.starts_with("connection")), "{:?}", session.log());
    drop(mine);
    session.end();
    pod.assert_pristine();
}

#[test]
fn what_the_gateway_cannot_read_goes_to_the_program_of_a_session_without_filters() {
    let mut pod = Pod::new();
    let servers = Servers::of(&pod, "pod");
    for program in [&servers.redis, &servers.postgres, &servers.smtp, &servers.sshd.0] {
        in_pod(&mut pod, program);
    }
    let bare = use_all(&pod);
    let others = Others::load_with(&pod, 8, &[]);
    let own = Servers::of(&pod, "own");
    let sessions: Vec<_> = [(&own.redis, REDIS), (&own.postgres, POSTGRES), (&own.smtp, SMTP), (&own.sshd.0, SSH)]
        .into_iter()
        .map(|(program, port)| {
            let session = Exec::steal(&pod).start(program);
            eventually(&format!("port {port} is redirected; the session says {}", session.output()), || pod.redirects(port).then_some(()));
            session
        })
        .collect();
    let stolen = use_all(&pod);
    assert_eq!(stolen, bare.replace("pod-", "own-").replace(&servers.sshd.1, &own.sshd.1));
    assert_ne!(stolen, bare);
    for port in [SMTP, SSH] {
        println!("port {port}: greeted after {:?}", banner_time(&pod, port));
    }
    for session in sessions {
        session.end();
    }
    assert_eq!(use_all(&pod), bare, "after the sessions");
    others.stop().assert_undisturbed(10);
    pod.assert_pristine();
}

/// One server of each protocol.
struct Servers {
    redis: Program,
    postgres: Program,
    smtp: Program,
    sshd: (Program, String),
}

impl Servers {
    fn of(pod: &Pod, whose: &str) -> Self {
        let name = |what: &str| format!("{whose}-{what}");
        Self {
            redis: servers::redis(pod, &name("redis"), REDIS),
            postgres: servers::postgres(pod, &name("postgres"), POSTGRES),
            smtp: python("smtp_server.py", &name("smtp"), SMTP),
            sshd: servers::sshd(pod, &name("sshd"), SSH),
        }
    }
}

/// What the clients of all four protocols get to see, who answered among it.
fn use_all(pod: &Pod) -> String {
    [use_redis(pod), use_postgres(pod), use_smtp(pod), use_ssh(pod)].join("\n")
}

fn use_redis(pod: &Pod) -> String {
    let host = pod.v4.to_string();
    let cli = |words: &[&str]| client(pod, "redis-cli", &[&["-h", &host], words].concat());
    let value = "v".repeat(1 << 20);
    let mut seen = cli(&["PING"]) + &cli(&["CONFIG", "GET", "dir"]).replace('\n', " ");
    // The value comes by standard input, as it is too long for an argument.
    let script = "redis-cli -h $0 -x SET big < $1 && redis-cli -h $0 GET big | cmp - $2 && echo same";
    let (file, wanted) = (pod.folder.path().join("value"), pod.folder.path().join("wanted"));
    fs::write(&file, &value).unwrap();
    fs::write(&wanted, value + "\n").unwrap();
    seen += &client(pod, "sh", &["-c", script, &host, file.to_str().unwrap(), wanted.to_str().unwrap()]);
    let pipeline = "yes INCR count | head -n 10000 | redis-cli -h $0 --pipe | tail -n 1";
    seen + &cli(&["SET", "count", "0"]) + &client(pod, "sh", &["-c", pipeline, &host]) + &cli(&["GET", "count"])
}

fn use_postgres(pod: &Pod) -> String {
    let host = pod.v4.to_string();
    let psql = |query: &str| client(pod, "psql", &["-X", "-h", &host, "-U", "test", "-d", "postgres", "-Atc", query]);
    let rows = psql("select i, md5(i::text) from generate_series(1, 10000) i");
    assert_eq!(rows.lines().count(), 10_000, "{}", &rows[..rows.len().min(500)]);
    psql("show cluster_name") + rows.lines().last().unwrap() + &psql("select 1/0")
}

fn use_smtp(pod: &Pod) -> String {
    let banner = banner(pod, SMTP);
    let mail = pod.folder.path().join("mail");
    fs::write(&mail, format!("{}\r\n", "m".repeat(98)).repeat(3000)).unwrap();
    let words =
        format!("smtp://{}:{SMTP}/client --mail-from a@here.test --mail-rcpt b@there.test --upload-file {}", pod.v4, mail.display());
    format!("{banner}{}", pod.curl(&words))
}

fn use_ssh(pod: &Pod) -> String {
    let scan = pod.clients.command("ssh-keyscan").args(["-t", "ed25519", "-p", &SSH.to_string(), &pod.v4.to_string()]).output().unwrap();
    banner(pod, SSH) + &String::from_utf8_lossy(&scan.stdout)
}

/// The line with which a server greets; panics if it does not come at once.
fn banner(pod: &Pod, port: u16) -> String {
    banner_time(pod, port);
    let mut client = pod.connect(port);
    let mut line = String::new();
    client.reader().read_line(&mut line).unwrap();
    line
}

/// How long a server's first words take; of three tries the best, as this machine may be busy.
fn banner_time(pod: &Pod, port: u16) -> Duration {
    let attempt = || {
        let start = Instant::now();
        let mut client = pod.connect(port);
        if port == REDIS {
            client.send(b"PING\r\n");
        }
        assert_eq!(client.read_up_to(1, QUIET).len(), 1, "port {port} says nothing");
        start.elapsed()
    };
    let best = (0..3).map(|_| attempt()).min().unwrap();
    assert!(best < AT_ONCE, "port {port}: first heard after {best:?}");
    best
}

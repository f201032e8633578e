//! `mirrord port-forward`: ports of this machine lead into the pod's network, and the pod's ports to this machine, without a program.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use mirrord_tests::{Pod, eventually, looking::Inspect, pod::WEB, session::ME};

/// A port of this machine that nobody has.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What is answered to one request on a port of this machine; nothing, if the connection ends without an answer.
fn ask(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // It may have ended by now, if nobody is there.
    let _ = stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: pod\r\n\r\n").as_bytes());
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

/// A server of this machine, which answers `mine` to each request and then closes.
fn serve(listener: TcpListener) {
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nmine");
        }
    });
}

#[test]
fn ports_of_this_machine_lead_to_hosts_as_the_pod_sees_them() {
    let pod = Pod::new();
    let (by_address, by_name, nobody) = (free_port(), free_port(), free_port());
    let maps = [format!("{by_address}:{}:{WEB}", pod.v4), format!("{by_name}:localhost:{WEB}"), format!("{nobody}:127.0.0.1:9")];
    let words = ["port-forward", "-L", &maps[0], "-L", &maps[1], "--port-mapping", &maps[2]];
    let forward = Inspect::command(&pod, &words, &format!("127.0.0.1:{nobody} -> 127.0.0.1:9"));
    for port in [by_address, by_name] {
        assert!(ask(port, "/through").ends_with("pod GET /through\n"), "{}", ask(port, "/through"));
    }
    // Many at once, and more bytes than windows hold.
    pod.add_file("large", 8 << 20);
    let large: Vec<_> = (0..8).map(|_| thread::spawn(move || ask(by_address, "/files/large").len())).collect();
    assert!(large.into_iter().all(|one| one.join().unwrap() > 8 << 20));
    assert_eq!(ask(nobody, "/"), "", "nobody listens there");
    eventually("it is said why", || {
        forward.errors().contains("127.0.0.1:9 from the target: 127.0.0.1:9: Connection refused").then_some(())
    });
    assert!(!pod.redirects(WEB), "nothing of the pod's traffic is touched");
    forward.end();
    assert!(TcpStream::connect(("127.0.0.1", by_name)).is_err());
    pod.assert_pristine();
}

#[test]
fn the_pods_traffic_comes_to_a_port_of_this_machine() {
    let pod = Pod::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let map = format!("{WEB}:{}", listener.local_addr().unwrap().port());
    serve(listener);
    let words = ["port-forward", "-R", &map, "--steal", "--header-filter", "^x-user: me$"];
    let forward = Inspect::command(&pod, &words, "(steal)");
    assert_eq!(pod.get("/").with(ME).send().text(), "mine");
    assert_eq!(pod.get("/").send().who(), "pod");
    forward.end();
    assert_eq!(pod.get("/").with(ME).send().who(), "pod");
    pod.assert_pristine();
}

#[test]
fn where_nobody_listens_the_pod_answers() {
    let pod = Pod::new();
    let forward =
        Inspect::command(&pod, &["port-forward", "-R", &format!("{WEB}:{}", free_port()), "--steal", "--header-filter", "me"], "(steal)");
    assert_eq!(pod.get("/").with(ME).send().who(), "pod");
    forward.end();
    pod.assert_pristine();
}

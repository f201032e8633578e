//! The harness itself, with no mirrord at all: a pod answers, its clients notice failures, and nothing is left behind.
//! Where these fail, no other test says anything.

use std::{env, fs, net::IpAddr, process::Command, thread, time::Duration};

use mirrord_tests::{
    Client, Others, Pod, Program, Recorder, eventually,
    http::{Pieces, get},
    http2, machine,
    pod::{WEB, WEB_H2, WEB_TOO},
    programs,
    recorder::Step,
    watchdog,
};

#[test]
fn a_pod_answers_its_clients_on_both_families_and_protocols() {
    let pod = Pod::new();
    for address in [pod.address(WEB), pod.address_v6(WEB), pod.address(WEB_TOO)] {
        let answer = pod.request(address, "GET", "/client").send();
        assert_eq!(answer.text(), format!("pod {} {} {}\n", pod.client_of(address), address.ip(), address.port()));
    }
    assert_eq!(pod.curl_inside("http://localhost/x"), "pod GET /x\n");
    let request = http2::Request { method: "GET", path: "/two".into(), mine: false, body: Vec::new() };
    let answers = http2::exchange(&pod.clients, pod.address(WEB_H2), vec![request.clone(), request]);
    let texts: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().text).collect();
    assert_eq!(texts, ["pod GET /two\n", "pod GET /two\n"]);
    pod.assert_pristine();
}

#[test]
fn other_people_are_content_with_a_bare_pod_and_notice_one_that_dies() {
    let mut pod = Pod::alone();
    let others = Others::load(&pod);
    others.wait_for(3000);
    others.stop().assert_undisturbed(3000);

    let short_lived = pod.start("doomed", pod.inside.command("sleep").arg("1"));
    let others = Others::load_with(&pod, 8, &[]);
    pod.inside.sh("iptables -A INPUT -p tcp --dport 80 -j REJECT --reject-with tcp-reset");
    eventually("a process of the pod ends by itself", || (!short_lived.is_alive()).then_some(()));
    let report = others.stop();
    assert!(!report.failures.is_empty());
    assert!(pod.leftovers().contains("--dport 80"), "a rule that was left is seen");
}

#[test]
fn a_recorder_keeps_the_bytes_however_they_are_cut() {
    let pod = Pod::new();
    let recorder = Recorder::new(&pod.inside, 9000);
    let request = get("/x", &["A:  b"]);
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\npod".to_vec();
    for pieces in Pieces::ALL {
        recorder.play(vec![Step { after: request.len(), answer: answer.clone(), pieces, close: false }]);
        let mut client = pod.connect(9000);
        client.send_in(&request, pieces);
        assert_eq!(client.read_up_to(answer.len(), Duration::from_secs(2)), answer);
        client.finish();
        let seen = recorder.finished();
        assert_eq!((seen.len(), &seen[0].bytes, seen[0].end), (1, &request, "closed"));
        assert_eq!(seen[0].peer, IpAddr::from(pod.client_v4));
    }
}

#[test]
fn the_programs_work_without_mirrord() {
    let mut pod = Pod::new();
    let all = [
        Program::python("python", &[9001]),
        Program::asyncio("asyncio", &[9002]),
        Program::node("node", &[9003]),
        Program::java("java", &[9004]),
        Program::c("c", &[9005]),
    ];
    for program in all {
        let log = pod.folder.path().join(&program.name);
        let command = programs::command_of(&program, &log);
        let mut inside = pod.inside.command(command.get_program().to_str().unwrap());
        inside.args(command.get_args());
        pod.start(&format!("{}.server", program.name), &mut inside);
        let port = program.ports[0];
        eventually("the program listens", || programs::log_lines(&log).contains(&format!("listening {port}")).then_some(()));
        let mut client = Client::connect(&pod.clients, pod.address(port));
        client.send(b"POST /p HTTP/1.1\r\nHost: x\r\nX-User: me\r\nContent-Length: 4\r\n\r\nbody");
        assert_eq!(client.response().text(), format!("program {} POST /p body=4\n", program.name));
        let seen = programs::seen(&log);
        assert_eq!((seen.len(), seen[0].peer, seen[0].local, seen[0].user.as_str()), (1, IpAddr::from(pod.client_v4), port, "me"));
    }
}

#[test]
fn pods_stand_beside_each_other() {
    let (one, two) = (Pod::new(), Pod::new());
    assert_eq!([one.get("/").send().who(), two.get("/").send().who()], ["pod", "pod"]);
    drop(one);
    assert_eq!(two.get("/").send().who(), "pod");
}

#[test]
fn a_test_that_hangs_is_ended_says_why_and_leaves_nothing() {
    const HANG: &str = "MIRRORD_TESTS_HANG";
    if env::var_os(HANG).is_some() {
        let _pod = Pod::new();
        watchdog::allow(Duration::from_secs(1));
        thread::scope(|scope| {
            scope.spawn(|| {
                let _waiting = watchdog::waiting("somebody who does not come");
                thread::sleep(Duration::from_secs(50));
            });
            panic!("what went wrong");
        });
    }
    let thread = thread::current();
    let mut again = Command::new(env::current_exe().unwrap());
    let output = machine::output(again.args(["--exact", thread.name().unwrap(), "--test-threads=2"]).env(HANG, "1"));
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    for part in ["somebody who does not come", "what went wrong", "its limit is 1s", "test result: FAILED. 0 passed; 1 failed"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(output.status.code(), Some(101));
    let pid = said.split("threads of ").nth(1).and_then(|rest| rest.split(':').next()).unwrap();
    let rests =
        fs::read_dir("/run/netns").unwrap().flatten().filter(|name| name.file_name().to_string_lossy().starts_with(&format!("mt{pid}x")));
    assert_eq!(rests.count(), 0, "{said}");
}

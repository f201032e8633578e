//! What is around a session on a cluster: the host name, what is told while it starts, and the commands that need no program.

use mirrord_tests::{
    cluster::{Exec, Space, agent_image},
    machine::{built, output},
};
use serde_json::Value;

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn the_program_has_the_containers_host_name() {
    let space = Space::new();
    space.shop(1);
    let pod = space.pods("app=shop").remove(0).name;
    let see = "import os, socket; print('name', socket.gethostname(), os.uname().nodename)";
    let mut session = Exec::plain(&space, "deployment/shop").start("see", &words(&["/usr/bin/python3", "-c", see]));
    assert_eq!(session.wait().code(), Some(0), "{}", session.output());
    assert!(session.output().contains(&format!("name {pod} {pod}\n")), "{}", session.output());

    let off = space.folder.path().join("off.json");
    std::fs::write(&off, r#"{"feature": {"hostname": false}}"#).unwrap();
    let mut session =
        Exec::plain(&space, "deployment/shop").word("-f").word(off.to_str().unwrap()).start("off", &words(&["/bin/uname", "-n"]));
    assert_eq!(session.wait().code(), Some(0), "{}", session.output());
    assert!(!session.output().contains(&format!("\n{pod}\n")), "{}", session.output());
}

#[test]
fn what_is_done_until_the_program_starts_is_told_with_its_time() {
    let space = Space::new();
    space.shop(1);
    let pod = space.pods("app=shop").remove(0).name;
    let mut session = Exec::plain(&space, "deployment/shop").start("plain", &words(&["/bin/true"]));
    assert_eq!(session.wait().code(), Some(0), "{}", session.output());
    let output = session.output();
    let steps = ["connecting to the cluster (0.0 s)".into(), format!("starting an agent for {pod} on "), "opening the session (".into()];
    let places: Vec<_> = steps.iter().map(|step| output.find(&format!("mirrord: {step}")).unwrap_or_else(|| panic!("{output}"))).collect();
    assert!(places.is_sorted(), "{output}");
    let sum = output
        .lines()
        .find(|line| line.starts_with("mirrord: mirror deployment/shop: running /bin/true ("))
        .unwrap_or_else(|| panic!("{output}"));
    assert!(sum.contains(&format!("starting an agent for {pod}")) && sum.ends_with(" s)"), "{sum}");

    let json = Exec::plain(&space, "deployment/shop").variable("MIRRORD_PROGRESS_MODE", "json");
    let mut session = json.start("json", &words(&["/bin/true"]));
    assert_eq!(session.wait().code(), Some(0), "{}", session.output());
    let output = session.output();
    let lines: Vec<Value> = output.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut open = Vec::new();
    for line in &lines {
        let name = line["name"].as_str().unwrap_or_default().to_owned();
        match line["type"].as_str() {
            Some("NewTask") => {
                assert_eq!(line["parent"].as_str(), open.first().map(String::as_str), "{output}");
                open.push(name);
            }
            Some("FinishedTask") => assert_eq!((open.pop(), &line["success"]), (Some(name), &Value::Bool(true)), "{output}"),
            _ => {}
        }
    }
    assert!(open.is_empty() && lines.len() >= 6 && lines[0]["name"] == "mirrord exec", "{output}");

    // On a terminal a step is a line that changes, and stays once the step is done.
    let command = format!("{} exec -t deployment/shop -- /bin/echo hello", built().join("mirrord").display());
    let mut terminal = space.dev("script");
    terminal.args(["-qefc", &command, "/dev/null"]).env("MIRRORD_AGENT_IMAGE", agent_image()).stdin(std::process::Stdio::null());
    let output = output_of(&mut terminal);
    for step in ["connecting to the cluster", &format!("joining the agent of {pod}"), "opening the session"] {
        let (open, closed) = (format!("mirrord: {step} …"), format!("\r\x1b[2Kmirrord: {step} ("));
        assert!(output.find(&open).is_some_and(|at| output[at..].contains(&closed)), "{step}: {output:?}");
    }
    let last = output.rfind("\x1b[2K").unwrap();
    assert!(output[last..].ends_with(" s)\r\nhello\r\n"), "{output:?}");
}

fn output_of(command: &mut std::process::Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A command of `mirrord`'s on the developer's machine: its standard output, and whether it ended well.
fn mirrord(space: &Space, user: &str, words: &str) -> (String, bool) {
    let mut command = space.dev(built().join("mirrord").to_str().unwrap());
    command.env("KUBECONFIG", space.kubeconfig(user)).env("MIRRORD_AGENT_IMAGE", agent_image()).args(words.split_whitespace());
    let output = output(&mut command);
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
}

fn doctor(space: &Space, user: &str, words: &str) -> (Vec<Value>, bool) {
    let (text, is_well) = mirrord(space, user, &format!("doctor --only cluster -o json {words}"));
    (serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")), is_well)
}

/// A finding whose text has this.
fn of<'a>(findings: &'a [Value], text: &str) -> Option<&'a str> {
    findings.iter().find(|one| one["what"].as_str().unwrap().contains(text)).map(|one| one["state"].as_str().unwrap())
}

#[test]
fn the_doctor_finds_what_is_missing_and_what_is_left() {
    let space = Space::new();
    let (findings, is_well) = doctor(&space, "admin", "");
    assert!(is_well, "{findings:?}");
    assert_eq!(of(&findings, "the API server answers"), Some("ok"));
    assert_eq!((of(&findings, "all rights"), of(&findings, "0 agents run")), (Some("ok"), Some("ok")), "{findings:?}");
    assert_eq!(of(&findings, &format!("{} is on 1 of 1 nodes", agent_image())), Some("ok"), "{findings:?}");

    let (findings, is_well) = doctor(&space, "developer", "");
    assert!(!is_well && of(&findings, "you may not get jobs, create jobs, delete jobs") == Some("problem"), "{findings:?}");

    // An agent is none of it while it lives.
    space.shop(1);
    let mut session = Exec::plain(&space, "deployment/shop").start("sleep", &words(&["/bin/sleep", "1000"]));
    session.wait_for_output("running /bin/sleep");
    let (findings, is_well) = doctor(&space, "admin", "--fix --yes");
    assert!(is_well && of(&findings, "1 agents run") == Some("ok"), "{findings:?}");
    assert!(!session.has_ended());
    session.end();

    space.kubectl("create secret generic left-keys");
    space.kubectl("label secret left-keys app=mirrord");
    space.kubectl("create secret generic others-keys");
    let found = space.eventually("it is old enough", || {
        let (findings, is_well) = doctor(&space, "admin", "");
        (of(&findings, "secret/left-keys") == Some("leftover")).then_some(is_well)
    });
    assert!(!found);
    let (findings, is_well) = doctor(&space, "admin", "--fix --yes");
    assert!(is_well && of(&findings, "secret/left-keys") == Some("removed"), "{findings:?}");
    let secrets = space.kubectl("get secrets -o name");
    assert!(!secrets.contains("left-keys") && secrets.contains("others-keys"), "{secrets}");
}

/// A server on the developer's machine, which answers `mine`, until it is dropped.
struct Mine(std::process::Child);

impl Mine {
    fn start(space: &Space, port: u16) -> Self {
        let server = "import http.server as h, sys\n\
                      class H(h.BaseHTTPRequestHandler):\n  def do_GET(self):\n    self.send_response(200); self.send_header('content-length', '4'); \
                      self.end_headers(); self.wfile.write(b'mine')\n  def log_message(self, *a): pass\n\
                      h.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()";
        Self(space.dev("/usr/bin/python3").args(["-c", server, &port.to_string()]).spawn().unwrap())
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn ports_are_forwarded_both_ways() {
    let space = Space::new();
    space.shop(2);
    let _mine = Mine::start(&space, 18090);
    // The Service's name is known in the cluster alone.
    let words = "-t deployment/shop -L 18091:shop:80 -R 80:18090 --steal --header-filter ^x-user:.me$";
    let mut forward = forward(&space, words, "port 80 of deployment/shop -> 127.0.0.1:18090 (steal)");
    for _ in 0..6 {
        assert_eq!(space.ask("shop", "/", &["x-user: me"]), "mine");
        assert!(space.ask("shop", "/", &[]).starts_with("pod shop-"));
    }
    let through = output_of(space.dev("curl").args(["-sS", "-m", "20", "http://127.0.0.1:18091/through"]));
    assert!(through.starts_with("pod shop-"), "{through}");
    mirrord_tests::processes::Process(forward.0.id()).signal(libc::SIGTERM);
    let status = space.eventually("it ends", || forward.0.try_wait().unwrap());
    assert!(status.success(), "{status}");
    assert!(space.ask("shop", "/", &["x-user: me"]).starts_with("pod shop-"));
}

/// A `mirrord port-forward` that has said this.
fn forward(space: &Space, words: &str, said: &str) -> Mine {
    let out = space.folder.path().join("forward.out");
    let mut command = space.dev(built().join("mirrord").to_str().unwrap());
    command.arg("port-forward").args(words.split(' '));
    command.env("KUBECONFIG", space.kubeconfig("admin")).env("MIRRORD_AGENT_IMAGE", agent_image());
    let mut forward = Mine(command.stderr(std::fs::File::create(&out).unwrap()).spawn().unwrap());
    space.eventually("it forwards", || {
        let output = std::fs::read_to_string(&out).unwrap();
        assert!(forward.0.try_wait().unwrap().is_none(), "{output}");
        output.contains(said).then_some(())
    });
    forward
}

#[test]
fn a_cluster_is_reached_without_a_target() {
    let space = Space::new();
    space.shop(1);
    let _forward = forward(&space, "-t targetless -L 18093:shop:80", "127.0.0.1:18093 -> shop:80");
    let through = output_of(space.dev("curl").args(["-sS", "-m", "20", "http://127.0.0.1:18093/through"]));
    assert!(through.starts_with("pod shop-"), "{through}");
}

#[test]
fn ls_takes_cluster_and_namespace_from_a_config_file() {
    let space = Space::new();
    space.shop(1);
    let file = space.folder.path().join("ls.json");
    let text = serde_json::json!({ "kubeconfig": space.kubeconfig("admin"), "target": { "path": "pod/any", "namespace": space.name } });
    std::fs::write(&file, text.to_string()).unwrap();
    let mut command = mirrord_tests::cluster::dev(built().join("mirrord").to_str().unwrap());
    command.env_remove("KUBECONFIG").args(["ls", "-o", "json", "-t", "deployment", "-f", file.to_str().unwrap()]);
    assert_eq!(output_of(&mut command).trim(), r#"["deployment/shop"]"#);
}

#[test]
fn what_passes_and_why_is_told_of_all_pods_and_says_of_which() {
    let space = Space::new();
    space.shop(2);
    let pods: Vec<_> = space.pods("app=shop").into_iter().map(|pod| pod.name).collect();
    let (text, is_well) = mirrord(&space, "admin", "explain -t deployment/shop");
    assert!(!is_well && text.is_empty(), "nobody has a session: {text}");

    let file = |name: &str| space.folder.path().join(name);
    let start = |name: &str, words: &str| {
        let mut command = space.dev(built().join("mirrord").to_str().unwrap());
        command.args(words.split_whitespace()).env("KUBECONFIG", space.kubeconfig("admin")).env("MIRRORD_AGENT_IMAGE", agent_image());
        let out = std::fs::File::create(file(name)).unwrap();
        let child = command.stdout(out).stderr(std::fs::File::create(file(&format!("{name}.err"))).unwrap()).spawn().unwrap();
        let said = || std::fs::read_to_string(file(&format!("{name}.err"))).unwrap();
        space.eventually("it looks at both pods", || (said().matches("mirrord: inspecting ").count() == 2).then_some(()));
        Mine(child)
    };
    let mut inspect = start("inspect", "inspect -t deployment/shop -p 80");
    let mut json = start("json", "inspect -t deployment/shop -p 80 --json");
    let mut dump = start("dump", "dump -t deployment/shop -p 80");
    let asked: Vec<_> = (0..12).map(|_| space.ask("shop", "/who", &["x-user: ann"])).collect();
    assert!(pods.iter().all(|pod| asked.iter().any(|answer| answer.starts_with(&format!("pod {pod}")))), "{asked:?}");

    let (text, is_well) = mirrord(&space, "admin", "explain -t deployment/shop -n 50");
    let of_pod = |text: &str, pod: &str| text.lines().filter(|line| line.contains(pod) && line.contains("GET /who")).count();
    assert!(is_well && pods.iter().all(|pod| of_pod(&text, pod) > 0), "{text}");

    let shown = |name: &str| std::fs::read_to_string(file(name)).unwrap();
    for (name, child) in [("inspect", &mut inspect), ("json", &mut json), ("dump", &mut dump)] {
        mirrord_tests::processes::Process(child.0.id()).signal(libc::SIGINT);
        let status = space.eventually("it ends", || child.0.try_wait().unwrap());
        assert!(status.success(), "{name}: {}", shown(&format!("{name}.err")));
    }
    let text = shown("inspect");
    let counts = [of_pod(&text, &pods[0]), of_pod(&text, &pods[1])];
    assert!(counts[0] > 0 && counts[1] > 0 && counts[0] + counts[1] == 12, "{text}");
    let lines: Vec<Value> = shown("json").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(pods.iter().all(|pod| lines.iter().any(|line| line["pod"] == pod.as_str())), "{}", shown("json"));
    let text = shown("dump");
    assert_eq!(text.matches("GET /who HTTP/1.1\n").count(), 12, "{text}");
    assert_eq!(text.matches("\nx-user: ann\n").count(), 12, "{text}");
    assert!(pods.iter().all(|pod| text.contains(&format!(", pod {pod}\n")) && text.contains(&format!("\n\npod {pod} GET /who"))), "{text}");
}

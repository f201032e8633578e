//! The cluster does what a cluster does, before anything of ours is tried on it.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpStream},
    process::Stdio,
    time::Duration,
};

use mirrord_tests::{
    Client,
    cluster::{NODE, Space, component, developer},
    processes::{Process, tree},
    state::rules,
};

#[test]
fn a_service_spreads_requests_over_all_replicas() {
    let space = Space::new();
    space.shop(3);
    let names: BTreeSet<_> = space.pods("app=shop").into_iter().map(|pod| format!("pod {}", pod.name)).collect();
    assert_eq!(names.len(), 3);

    let others = space.others("shop", 8);
    others.wait_for(600);
    let report = others.stop();
    report.assert_undisturbed(600);
    assert_eq!(report.by.keys().cloned().collect::<BTreeSet<_>>(), names, "{:?}", report.by);
    assert!(report.by.values().all(|count| *count > 20), "{:?}", report.by);
}

#[test]
fn nobody_notices_a_restart_a_deletion_or_scaling() {
    let space = Space::alone();
    space.shop(3);
    let before: BTreeSet<_> = space.pods("app=shop").into_iter().map(|pod| pod.name).collect();

    let others = space.others("shop", 8);
    space.kubectl("rollout restart deployment/shop");
    space.rolled_out("deployment/shop");
    let after: BTreeSet<_> = space.pods("app=shop").into_iter().map(|pod| pod.name).collect();
    assert!(before.is_disjoint(&after), "{before:?} {after:?}");
    space.kubectl(&format!("delete pod {} --wait=false", after.first().unwrap()));
    space.rolled_out("deployment/shop");
    for replicas in [5, 1] {
        space.kubectl(&format!("scale deployment/shop --replicas={replicas}"));
        space.eventually("it has so many", || (space.pods("app=shop").len() == replicas).then_some(()));
        space.rolled_out("deployment/shop");
    }
    others.wait_for(100);
    others.stop().assert_undisturbed(1000);
}

#[test]
fn environment_comes_from_config_map_secret_and_pod() {
    let space = Space::new();
    space.shop(1);
    let pod = space.pods("app=shop").remove(0);
    let shop = pod.process("shop");
    let variable = |name: &str| shop.variable(name).unwrap_or_default();
    assert_eq!(variable("GREETING"), "hello from the config map");
    assert_eq!(variable("API_KEY"), "s3cret value");
    assert_eq!(variable("STAGE"), "production");
    assert_eq!(variable("POD_NAME"), pod.name);
    assert_eq!(variable("POD_IP"), pod.ip.unwrap().to_string());
}

#[test]
fn logs_exec_and_port_forward_work_from_the_developers_machine() {
    let space = Space::new();
    space.shop(1);
    let name = space.pods("app=shop").remove(0).name;
    assert_eq!(space.ask("shop", "/seen", &["x-user: me"]), format!("pod {name} GET /seen\n"));
    let log = space.kubectl("logs deployment/shop -c shop");
    assert!(log.contains("request GET /seen"), "{log}");
    assert!(log.contains("agent=kube-probe/"), "{log}");
    assert_eq!(space.kubectl("exec client -- cat /proc/sys/kernel/hostname").trim(), "client");

    let mut forward = space.command();
    let mut forward = forward.args(["port-forward", "service/shop", ":80"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    // Kept, as it says more later, and would end if nobody could hear it.
    let mut said = BufReader::new(forward.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("{line}"));
    let mut client = Client::connect(&developer(), SocketAddr::from(([127, 0, 0, 1], port)));
    assert_eq!(client.get("/forwarded", &[]).text(), format!("pod {name} GET /forwarded\n"));
    tree(Process(forward.id())).into_iter().for_each(Process::kill);
    forward.wait().unwrap();
}

#[test]
fn the_developer_reaches_node_ports_but_neither_pods_nor_services() {
    let space = Space::new();
    space.shop(1);
    space.kubectl("expose deployment shop --type=NodePort --port=80 --target-port=80 --name=outside");
    let port = space.get("service outside")["spec"]["ports"][0]["nodePort"].as_u64().unwrap() as u16;
    let outside = SocketAddr::new(NODE.parse().unwrap(), port);
    space.reachable(&developer(), outside);
    let mut client = Client::connect(&developer(), outside);
    assert!(client.get("/", &[]).text().starts_with("pod shop-"));
    let pod = SocketAddr::new(space.pods("app=shop")[0].ip.unwrap(), 80);
    for address in [pod, space.service("shop", 80)] {
        let reached = developer().run(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)));
        assert!(reached.is_err(), "the developer reaches {address}");
    }
}

#[test]
fn names_of_services_resolve_in_pods() {
    let space = Space::new();
    space.shop(1);
    let answer = space.kubectl("exec client -- wget -q -O - http://shop/named");
    assert!(answer.starts_with("pod shop-") && answer.ends_with(" GET /named\n"), "{answer}");
}

#[test]
fn in_a_mesh_requests_come_by_way_of_the_sidecar() {
    let space = Space::new();
    space.apply(&Space::manifest("mesh"));
    space.shop(1);
    space.rolled_out("deployment/meshed");
    space.reachable(&space.client(), space.service("meshed", 80));
    let pod = space.pods("app=meshed").remove(0);
    let rules = rules(&pod.network(), "iptables");
    assert!(rules.iter().any(|rule| rule.ends_with("-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006")), "{rules:?}");
    assert_eq!(space.ask("meshed", "/meshed", &[]), format!("pod {} GET /meshed\n", pod.name));
    let seen = space.kubectl("logs deployment/meshed -c shop");
    assert!(seen.contains("request GET /meshed from=::ffff:127.0.0.6 "), "{seen}");
    let relayed = space.kubectl("logs deployment/meshed -c istio-proxy");
    assert!(relayed.contains(&format!("inbound {} to ", space.pod("client").ip.unwrap())), "{relayed}");
}

#[test]
fn a_restricted_user_a_restricted_namespace_and_a_quota_refuse() {
    let space = Space::new();
    space.apply(&Space::manifest("developer"));
    space.shop(1);
    let config = space.kubeconfig("developer");
    let as_developer = |words: &str| space.try_kubectl(&format!("--kubeconfig {} {words}", config.display()));
    assert!(as_developer("get pods").unwrap().contains("shop-"));
    let refusal = as_developer("create job agent --image=local/tools:1").unwrap_err();
    assert!(refusal.contains("User \"developer\" cannot create resource \"jobs\""), "{refusal}");

    space.apply(&Space::manifest("quota"));
    let refusal = space.try_kubectl("run one-more --image=local/tools:1").unwrap_err();
    assert!(refusal.contains("exceeded quota: full"), "{refusal}");
    space.kubectl("delete resourcequota full");

    space.kubectl(&format!("label namespace {} pod-security.kubernetes.io/enforce=restricted", space.name));
    let refusal = space.try_kubectl("run one-more --image=local/tools:1").unwrap_err();
    assert!(refusal.contains("violates PodSecurity \"restricted:latest\""), "{refusal}");
    space.kubectl("delete deployment shop");
    space.apply(&Space::manifest("restricted"));
    space.rolled_out("deployment/shop");
}

#[test]
fn rollouts_of_argo_are_known() {
    let space = Space::new();
    space.argo_rollouts();
    space.shop(1);
    space.apply(&Space::manifest("rollout"));
    let rollout = space.get("rollout/shop");
    assert_eq!(rollout["spec"]["workloadRef"]["name"], "shop");
    let refusal = space.try_kubectl("patch rollout shop --type=merge -p {\"spec\":{\"replicas\":\"many\"}}").unwrap_err();
    assert!(refusal.contains("spec.replicas"), "{refusal}");
}

#[test]
fn pods_go_on_while_the_api_server_starts_again() {
    let space = Space::alone();
    space.shop(2);
    let others = space.others("shop", 8);
    component("kill", "apiserver");
    assert!(space.try_kubectl("get pods").is_err());
    others.wait_for(200);
    component("start", "apiserver");
    space.eventually("the API server is back", || space.try_kubectl("get --raw /readyz").ok());
    others.wait_for(200);
    others.stop().assert_undisturbed(400);
}

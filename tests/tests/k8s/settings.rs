//! What the config file's section `agent` says of the agent's pod, on the pod that is made; and how the agent finds its container.

use std::fs;

use mirrord_tests::{
    cluster::{Exec, Space, agent_image},
    machine::{built, run},
    programs::Program,
    session::ME,
};
use serde_json::{Value, json};

fn file(space: &Space, text: &Value) -> String {
    let path = space.folder.path().join("settings.json");
    fs::write(&path, text.to_string()).unwrap();
    path.to_str().unwrap().into()
}

#[test]
fn the_agents_pod_is_as_the_config_file_says() {
    let space = Space::new();
    space.shop(1);
    space.kubectl("create serviceaccount agents");
    space.kubectl_with(&["create", "secret", "docker-registry", "pulls", "--docker-username=a", "--docker-password=b"]);
    let settings = json!({"agent": {
        "log_level": "mirrord_agent=debug,info", "json_log": true, "image": {"registry": "mirrord-agent"}, "image_pull_policy": "Never",
        "image_pull_secrets": [{"name": "pulls"}], "ttl": 5, "communication_timeout": 2, "startup_timeout": 50,
        "disabled_capabilities": [], "tolerations": [{"key": "spot", "operator": "Exists"}],
        "resources": {"requests": {"cpu": "2m", "memory": "8Mi"}, "limits": {"cpu": "500m", "memory": "150Mi"}},
        "check_out_of_pods": true, "nftables": false, "labels": {"team": "blue"}, "annotations": {"example.com/why": "test"},
        "service_account": "agents", "priority_class": "system-cluster-critical", "disable_mesh_sidecar_injection": false,
        "security_context": {"seccomp_profile": {"type": "Unconfined"}},
    }, "startup_retry": {"min_ms": 100, "max_ms": 200, "max_retries": 1}});
    // This class is for one namespace alone, unless a quota allows it.
    space.apply(
        "{apiVersion: v1, kind: ResourceQuota, metadata: {name: critical}, spec: {hard: {pods: \"10\"}, scopeSelector: \
         {matchExpressions: [{operator: In, scopeName: PriorityClass, values: [system-cluster-critical]}]}}}",
    );
    let local = 18085;
    let session = Exec::plain(&space, "deployment/shop")
        .option(&format!("--steal -p 80:{local} -f {}", file(&space, &settings)))
        .run(&Program::python("app", &[local]));
    assert!(space.ask("shop", "/", &[ME]).starts_with("program app"));
    let rules = |variant: &str| space.pods("app=shop")[0].network().sh(&format!("iptables-{variant}-save -t nat"));
    assert!(rules("legacy").contains("--dport 80 ") && !rules("nft").contains("--dport 80 "), "{}{}", rules("legacy"), rules("nft"));
    let pod = space.pods("app=mirrord,team=blue").remove(0);
    let job = space.get("jobs -l team=blue")["items"][0].clone();
    let (spec, metadata) = (&pod.object["spec"], &pod.object["metadata"]);
    let container = &spec["containers"][0];
    assert_eq!(container["image"], agent_image());
    assert_eq!(container["imagePullPolicy"], "Never");
    assert_eq!(spec["imagePullSecrets"], json!([{"name": "pulls"}]));
    assert_eq!(container["resources"], settings["agent"]["resources"]);
    assert_eq!(spec["serviceAccountName"], "agents");
    assert_eq!(spec["priorityClassName"], "system-cluster-critical");
    assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "Unconfined");
    assert!(spec["tolerations"].as_array().unwrap().contains(&json!({"key": "spot", "operator": "Exists"})));
    assert!(!spec["tolerations"].as_array().unwrap().contains(&json!({"operator": "Exists"})));
    assert_eq!(job["spec"]["ttlSecondsAfterFinished"], 5);
    for metadata in [metadata, &job["metadata"]] {
        assert_eq!(metadata["annotations"]["example.com/why"], "test");
        assert!(metadata["annotations"].get("sidecar.istio.io/inject").is_none());
    }
    // Its log is JSON, and has more than by default.
    let log = space.kubectl(&format!("logs {}", pod.name));
    let lines: Vec<Value> = log.lines().filter(|line| *line != "ready").map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["fields"]["message"] == "a session begins"), "{log}");
    session.end();
    // Two seconds after its last session, and not the thirty that it waits else.
    let ended = std::time::Instant::now();
    space.eventually("it has ended", || space.pods("app=mirrord").iter().all(|pod| pod.phase != "Running").then_some(()));
    println!("ended within {:.1} s", ended.elapsed().as_secs_f32());
}

#[test]
fn a_node_without_a_free_place_is_an_error_before_anything_is_made() {
    let space = Space::alone();
    space.shop(1);
    let pod = space.pods("app=shop").remove(0);
    let node = pod.object["spec"]["nodeName"].as_str().unwrap().to_owned();
    let room = || space.get(&format!("node {node}"))["status"]["allocatable"]["pods"].as_str().unwrap().to_owned();
    let before = room();
    // What the node is said to have room for, until its kubelet says otherwise: within ten seconds.
    let full = r#"{"status":{"allocatable":{"pods":"1"},"capacity":{"pods":"1"}}}"#;
    let output = space.eventually("it is refused", || {
        space.kubectl_with(&["patch", "node", &node, "--subresource=status", "--type=merge", "-p", full]);
        let mut session = Exec::plain(&space, "deployment/shop").start("full", &["/bin/true".to_owned()]);
        let status = session.wait();
        (status.code() == Some(1)).then(|| session.output())
    });
    space.eventually("the node has room again", || (room() == before).then_some(()));
    assert!(output.contains("has no free place for a pod") && output.contains("agent.check_out_of_pods"), "{output}");
    assert!(space.pods("app=mirrord").is_empty());
}

#[test]
fn from_within_the_cluster_the_agent_is_reached_without_the_api_server() {
    let space = Space::new();
    space.shop(1);
    let mirrord = built().join("mirrord");
    let mut rbac = space.dev(mirrord.to_str().unwrap());
    let roles = run(rbac.args(["rbac", "-g", "no-one", "-n", &space.name]));
    // All but the right to forward ports.
    space.apply(
        &roles.replace("kind: Group", "kind: User").replace("name: no-one", "name: developer").replace("pods/portforward", "pods/none"),
    );
    let mut outside =
        Exec::plain(&space, "deployment/shop").user("developer").option("--agent-startup-timeout 4").start("out", &["/bin/true".into()]);
    assert_eq!(outside.wait().code(), Some(1), "{}", outside.output());
    assert!(outside.output().contains("portforward"), "{}", outside.output());
    space.eventually("that agent has gone", || space.kubectl("get jobs -l app=mirrord -o name").trim().is_empty().then_some(()));
    let client = space.client();
    let mut inside = client.command(mirrord.to_str().unwrap());
    inside
        .env("KUBECONFIG", space.kubeconfig("developer"))
        .env("KUBERNETES_SERVICE_HOST", "10.96.0.1")
        .env("MIRRORD_AGENT_IMAGE", agent_image());
    inside.args(["exec", "-t", "deployment/shop", "--", "/usr/bin/env"]);
    let printed = run(&mut inside);
    assert!(printed.contains("\nGREETING=hello from the config map\n"), "{printed}");
}

#[test]
fn a_container_whose_cgroup_says_nothing_is_found_by_its_runtime() {
    let space = Space::new();
    space.shop(1);
    let pod = space.pods("app=shop").remove(0);
    let process = pod.process("shop");
    let id = pod.containers.iter().find(|container| container.name == "shop").unwrap().id.clone();
    let mut moved = 0;
    for line in fs::read_to_string(format!("/proc/{}/cgroup", process.0)).unwrap().lines() {
        let [_, controllers, path] = line.splitn(3, ':').collect::<Vec<_>>().try_into().unwrap();
        let Some((above, _)) = path.split_once(&format!("/{id}")) else { continue };
        // Where version 2 is beside version 1, alone, and each of the first one's.
        let folders = if controllers.is_empty() { ["unified", ""] } else { [controllers.trim_start_matches("name="), ""] };
        let groups = folders.map(|folder| std::path::Path::new("/sys/fs/cgroup").join(folder).join(above.trim_start_matches('/')));
        let group = groups.iter().find(|group| group.exists()).unwrap_or(&groups[0]).join("cgroup.procs");
        fs::write(&group, process.0.to_string()).unwrap_or_else(|error| panic!("{}: {error}", group.display()));
        moved += 1;
    }
    assert!(moved > 0 && !fs::read_to_string(format!("/proc/{}/cgroup", process.0)).unwrap().contains(&id));
    let mut session = Exec::plain(&space, "deployment/shop").start("env", &["/usr/bin/env".to_owned()]);
    assert_eq!(session.wait().code(), Some(0), "{}", session.output());
    assert!(session.output().contains("\nGREETING=hello from the config map\n"), "{}", session.output());
    let log = space.kubectl(&format!("logs {}", space.pods("app=mirrord")[0].name));
    assert!(log.contains("the container's process was found by its runtime"), "{log}");
}

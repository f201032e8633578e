use super::*;

fn pod() -> Pod {
    Pod {
        name: "shop-7c9f-x".into(),
        namespace: "shop".into(),
        uid: "5e7c".into(),
        node: "node1".into(),
        container: "app".into(),
        container_id: "containerd://4f5c".into(),
        has_guest: false,
    }
}

fn with_plan<T>(settings: &Agent, test: impl FnOnce(&Plan) -> T) -> T {
    let target = ClusterTarget::Workload { kind: mirrord_config::Kind::Deployment, name: "shop".into(), container: None };
    with_target(&target, settings, test)
}

fn with_target<T>(target: &ClusterTarget, settings: &Agent, test: impl FnOnce(&Plan) -> T) -> T {
    let owner = Owner { user: "ann".into(), host: "laptop".into(), pid: 7, command: "python3".into() };
    test(&Plan {
        name: name("5e7c"),
        keys: "mirrord-agent-keys".into(),
        namespace: "tools".into(),
        pod: &pod(),
        target,
        owner: &owner,
        settings,
        is_open: false,
        image: "registry/agent:1".into(),
    })
}

/// Compares with a file beside this one; `MIRRORD_SNAPSHOTS=write` writes it anew.
fn snapshot(name: &str, value: &Value) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kube/snapshots").join(name);
    let text = serde_json::to_string_pretty(value).unwrap() + "\n";
    if std::env::var_os("MIRRORD_SNAPSHOTS").is_some_and(|value| value == "write") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "{}", path.display());
}

#[test]
fn a_job_as_it_is_without_settings() {
    with_plan(&Agent::default(), |plan| {
        snapshot("job.json", &job_json(plan));
        let typed = serde_json::to_value(job(plan).unwrap()).unwrap();
        // Nothing of it is lost in Kubernetes' own types.
        assert_eq!(typed, job_json(plan));
    });
}

#[test]
fn a_job_with_all_that_can_be_set() {
    let settings = Agent {
        log_level: Some("debug".into()),
        image_pull_policy: Some("Always".into()),
        image_pull_secrets: vec!["registry".into()],
        ttl: Some(60),
        communication_timeout: Some(5),
        disabled_capabilities: vec!["SYS_PTRACE".into()],
        tolerations: Some(json!([])),
        resources: Some(json!({"limits": {"memory": "64Mi"}})),
        labels: [("team".into(), "blue".into()), ("app".into(), "other".into())].into(),
        annotations: [("a/b".into(), "c".into())].into(),
        service_account: Some("agent".into()),
        priority_class: Some("high".into()),
        disable_mesh_sidecar_injection: Some(false),
        security_context: Some(json!({"seccompProfile": {"type": "RuntimeDefault"}})),
        json_log: Some(true),
        nftables: Some(true),
        ..Agent::default()
    };
    with_plan(&settings, |plan| snapshot("job-set.json", &job_json(plan)));
    let privileged = Agent { privileged: Some(true), ..Agent::default() };
    with_plan(&privileged, |plan| {
        let context = &job_json(plan)["spec"]["template"]["spec"]["containers"][0]["securityContext"];
        assert_eq!(*context, json!({"privileged": true, "runAsUser": 0, "runAsNonRoot": false}));
    });
}

#[test]
fn an_agent_that_is_made_from_within_the_cluster_can_be_reached_there() {
    with_plan(&Agent::default(), |plan| {
        let open = Plan { is_open: true, ..plan.clone() };
        assert_eq!(job_json(&open)["spec"]["template"]["spec"]["containers"][0]["args"][1], "0.0.0.0:7412");
        // A guest is in somebody else's network.
        assert_eq!(guest(&open, 20001, "7")["spec"]["ephemeralContainers"][0]["args"][1], "127.0.0.1:20001");
    });
}

#[test]
fn the_keys_are_in_the_secret_alone() {
    with_plan(&Agent::default(), |plan| {
        let files = super::super::keys::make().unwrap();
        let secret = secret(plan, Holder::Job("uid-of-job"), files.clone()).unwrap();
        assert_eq!(secret.metadata.owner_references.unwrap()[0].uid, "uid-of-job");
        assert_eq!(secret.string_data.unwrap(), files);
        assert!(!job_json(plan).to_string().contains("-----BEGIN"));
    });
}

#[test]
fn a_setting_that_kubernetes_does_not_know_is_the_users() {
    let settings = Agent { resources: Some(json!({"limits": [1]})), ..Agent::default() };
    let error = with_plan(&settings, job).unwrap_err();
    assert!(error.help().contains("section `agent`"), "{error}");
}

#[test]
fn a_pod_has_one_name_for_its_agent() {
    assert_eq!(name("a"), name("a"));
    assert_ne!(name("a"), name("b"));
    assert_eq!(name("a").len(), "mirrord-agent-".len() + 10);
}

#[test]
fn a_guest_of_the_targets_pod() {
    with_plan(&Agent::default(), |plan| {
        let patch = guest(plan, 20001, "77");
        snapshot("guest.json", &patch);
        let typed: k8s_openapi::api::core::v1::Pod = serde_json::from_value(patch.clone()).unwrap();
        assert_eq!(serde_json::to_value(typed).unwrap()["spec"]["ephemeralContainers"], patch["spec"]["ephemeralContainers"]);
        let secret = secret(plan, Holder::Pod, BTreeMap::new()).unwrap();
        let owner = secret.metadata.owner_references.unwrap().remove(0);
        assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.uid.as_str()), ("Pod", "shop-7c9f-x", "5e7c"));
    });
    let settings = Agent { disabled_capabilities: vec!["SYS_PTRACE".into()], json_log: Some(true), ..Agent::default() };
    with_plan(&settings, |plan| snapshot("guest-set.json", &guest(plan, 20001, "77")));
    let privileged = Agent { privileged: Some(true), ..Agent::default() };
    with_plan(&privileged, |plan| {
        let context = &guest(plan, 20001, "77")["spec"]["ephemeralContainers"][0]["securityContext"];
        assert_eq!(*context, json!({"privileged": true, "runAsUser": 0, "runAsNonRoot": false}));
    });
}

#[test]
fn a_job_without_a_target_needs_no_rights_and_no_node() {
    with_target(&ClusterTarget::Targetless, &Agent::default(), |plan| {
        snapshot("targetless.json", &job_json(plan));
        assert_eq!(serde_json::to_value(job(plan).unwrap()).unwrap(), job_json(plan));
    });
    let settings = Agent {
        node_selector: [("disk".into(), "ssd".into())].into(),
        tolerations: Some(json!([{"key": "gpu", "operator": "Exists"}])),
        privileged: Some(true),
        security_context: Some(json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "p"}})),
        ..Agent::default()
    };
    with_target(&ClusterTarget::Targetless, &settings, |plan| {
        let spec = &job_json(plan)["spec"]["template"]["spec"];
        assert_eq!(spec["nodeSelector"], json!({"disk": "ssd"}));
        assert_eq!(spec["tolerations"][0]["key"], "gpu");
        assert_eq!(spec["containers"][0]["securityContext"]["privileged"], false);
        assert_eq!(spec["securityContext"]["seccompProfile"]["localhostProfile"], "p");
    });
}

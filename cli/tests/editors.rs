//! What editors read: JSON about config files, of targets that cannot be listed, and of what is being done.

#![allow(clippy::unwrap_used, reason = "a test may panic, and this is nothing but tests")]

mod common;

use common::Trial;
use serde_json::{Value, json};

fn verify(trial: &Trial, name: &str, content: &str, flags: &[&str]) -> Value {
    let file = trial.file(name, content, 0o644);
    let words = [&["verify-config", file.to_str().unwrap()], flags].concat();
    let ended = trial.run(&words);
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{content}");
    serde_json::from_str(&ended.stdout).unwrap()
}

#[test]
fn a_right_file_is_a_success_with_its_target_and_warnings() {
    let trial = Trial::new();
    let answer = verify(&trial, "a.json", r#"{"target": "pod/x/container/c"}"#, &[]);
    let types = ["targetless", "pod", "deployment", "rollout", "job", "cronjob", "statefulset", "service", "replicaset"];
    let config = json!({ "path": { "pod": "x", "container": "c" }, "namespace": null });
    assert_eq!(answer, json!({ "type": "Success", "config": config, "warnings": [], "compatible_target_types": types }));

    let yaml = "target: { path: { stateful_set: db }, namespace: \"{{ get_env(name='NO_SUCH', default='dev') }}\" }\nagent: {ephemeral: true, namespace: x}";
    let answer = verify(&trial, "b.yaml", yaml, &[]);
    assert_eq!(answer["config"], json!({ "path": { "stateful_set": "db", "container": null }, "namespace": "dev" }));
    assert!(answer["warnings"][0].as_str().unwrap().contains("agent.namespace"), "{answer}");

    let answer = verify(&trial, "c.toml", "target = \"label/app=shop,a/b=c\"", &[]);
    assert_eq!(answer["config"]["path"], json!({ "labels": { "app": "shop", "a/b": "c" }, "container": null }));
    assert_eq!(verify(&trial, "d.json", "{}", &[])["config"]["path"], Value::Null);
    assert_eq!(verify(&trial, "d.json", r#"{"target": "targetless"}"#, &[])["config"]["path"], "targetless");
}

#[test]
fn a_wrong_file_is_a_failure_that_says_where_and_what_to_do() {
    let trial = Trial::new();
    let steal = r#"{"feature": {"network": {"incoming": "steal"}}}"#;
    let cases = [
        (r#"{"target": "shop"}"#, "pod/shop"),
        (r#"{"taget": "pod/x"}"#, "did you mean `target`?"),
        (r#"{"target": "pod/x","#, "line 1"),
        (steal, "no target whose traffic could be stolen"),
        (r#"{"target": "pod/x", "feature": {"db_branches": [{"type": "pg"}]}}"#, "feature.db_branches"),
        (r#"{"target": "pod/x", "feature": {"copy_target": true}}"#, "feature.copy_target"),
        (r#"{"target": "pod/x", "profile": "a"}"#, "profile"),
    ];
    for (content, part) in cases {
        let answer = verify(&trial, "bad.json", content, &[]);
        assert_eq!(answer["type"], "Fail", "{content}: {answer}");
        assert!(answer["errors"][0].as_str().unwrap().contains(part), "{content}: {answer}");
    }
    // An editor lets the user choose.
    assert_eq!(verify(&trial, "steal.json", steal, &["--ide"])["type"], "Success");
    let missing = trial.run(&["verify-config", "/no/such/mirrord.json"]);
    assert!(missing.status == Some(0) && missing.stdout.contains(r#""type":"Fail""#), "{missing:?}");
}

#[test]
fn what_a_file_comes_to_is_a_config_file_again() {
    let trial = Trial::new();
    let content = r#"{"$schema": "x", "key": "{{ git_branch | default(value='none') }}", "target": "deploy/x", "feature": {"env": null,
        "network": {"incoming": "steal"}}}"#;
    let first = verify(&trial, "short.json", content, &["--resolved"]);
    let resolved = &first["resolved_config"];
    assert_eq!(resolved["target"], json!({ "path": { "deployment": "x" } }));
    assert_eq!(resolved["feature"], json!({ "hostname": true, "network": { "incoming": { "mode": "steal" } } }));
    assert!(!resolved["key"].as_str().unwrap().contains('{'), "{resolved}");
    let second = verify(&trial, "long.json", &resolved.to_string(), &["--resolved"]);
    assert_eq!(&second["resolved_config"], resolved);
}

#[test]
fn errors_of_ls_are_json_where_its_output_is() {
    let mut trial = Trial::new();
    trial.set("KUBECONFIG", "/no/such/kubeconfig");
    let ended = trial.run(&["ls", "-o", "json"]);
    let error: Value = serde_json::from_str(&ended.stderr).unwrap();
    assert_eq!((ended.status, &error["severity"], &error["causes"]), (Some(1), &json!("error"), &json!([])), "{ended:?}");
    assert!(error["message"].as_str().unwrap().contains("kubeconfig") && !error["help"].as_str().unwrap().is_empty());
    // The file counts, and a wrong one is an error like any other.
    let file = trial.file("ls.json", r#"{"kube_contxt": "x"}"#, 0o644);
    let ended = trial.run(&["ls", "-o", "json", "-f", file.to_str().unwrap()]);
    assert!(ended.stderr.starts_with('{') && ended.stderr.contains("did you mean `kube_context`?"), "{ended:?}");
    let ended = trial.run(&["ls", "-o", "table"]);
    assert!(ended.stderr.starts_with("mirrord: error: "), "{ended:?}");
}

#[test]
fn progress_is_json_for_those_who_ask_and_a_failure_ends_its_task() {
    let mut trial = Trial::new();
    trial.set("MIRRORD_PROGRESS_MODE", "json");
    let file = trial.file("warns.json", r#"{"target": "netns/no-such", "experimental": {}}"#, 0o644);
    let ended = trial.run(&["exec", "-f", file.to_str().unwrap(), "--", "true"]);
    let lines: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], json!({ "type": "NewTask", "name": "mirrord exec", "parent": null }));
    assert_eq!(lines[1], json!({ "type": "Warning", "message": "`experimental` is not supported yet and is ignored" }));
    let last = lines.last().unwrap();
    assert_eq!((&last["type"], &last["name"], &last["success"]), (&json!("FinishedTask"), &json!("mirrord exec"), &json!(false)));
    assert!(last["message"].as_str().unwrap().contains("no-such"), "{last}");
    assert!(ended.stderr.starts_with("mirrord: error: "), "{ended:?}");
}

//! Whether a node has a place for one more pod, asked before an agent is made: on a full one it would wait for the scheduler in vain.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, api::ListParams};

use super::error::KubeError;

/// Fails if there is none. Without the right to look it is left to the scheduler, which says it a moment later.
pub async fn check(client: &Client, node: &str) -> Result<(), KubeError> {
    let running = format!("spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed");
    let (nodes, pods) = (Api::<Node>::all(client.clone()), Api::<Pod>::all(client.clone()));
    let Ok(Some(found)) = nodes.get_opt(node).await else { return Ok(()) };
    let Some(places) = places(&found) else { return Ok(()) };
    let Ok(pods) = pods.list_metadata(&ListParams::default().fields(&running)).await else { return Ok(()) };
    judge(node, places, pods.items.len())
}

fn judge(node: &str, places: usize, taken: usize) -> Result<(), KubeError> {
    if taken < places {
        return Ok(());
    }
    Err(KubeError::Start {
        why: format!("its node {node} has no free place for a pod: {taken} of {places} are taken"),
        help: "make room there, or use --ephemeral-container, which needs no place; agent.check_out_of_pods = false leaves it to the scheduler"
            .into(),
    })
}

fn places(node: &Node) -> Option<usize> {
    node.status.as_ref()?.allocatable.as_ref()?.get("pods")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_full_when_as_many_pods_are_there_as_it_takes() {
        let node: Node = serde_json::from_value(serde_json::json!({"metadata": {}, "status": {"allocatable": {"pods": "110"}}})).unwrap();
        assert_eq!(places(&node), Some(110));
        assert_eq!(places(&Node::default()), None);
        judge("n", 110, 109).unwrap();
        let error = judge("n", 110, 110).unwrap_err();
        assert!(error.to_string().contains("110 of 110") && error.help().contains("--ephemeral-container"), "{error}");
    }
}

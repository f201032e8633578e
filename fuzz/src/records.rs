//! What the gateway tells of the requests that it moves: here nobody looks, but the machine is the same.

#[path = "../../agent/src/records/body.rs"]
pub mod body;
#[path = "../../agent/src/records/exchanges.rs"]
pub mod exchanges;
#[path = "../../agent/src/records/json.rs"]
mod json;
#[path = "../../agent/src/records/mask.rs"]
pub mod mask;
#[path = "../../agent/src/records/text.rs"]
mod text;

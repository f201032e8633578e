//! What intproxy, agent and layer say to each other.

use mirrord_protocol::{
    control::{ErrorReply, Event, FilterReply, SessionRequest},
    deliver::{self, HELLO_LEN, Hello},
    layer::{self, Message, Reply},
};
use serde::{Serialize, de::DeserializeOwned};

use super::choices;

/// A hello is what it says and nothing else; so is a token.
pub fn hello(data: &[u8]) {
    let (bytes, rest) = choices::<HELLO_LEN>(data);
    if let Some(hello) = Hello::decode(&bytes) {
        assert_eq!(hello.encode(), bytes);
    }
    if let Ok(text) = std::str::from_utf8(rest)
        && let Some(token) = deliver::token_from_hex(text)
    {
        assert_eq!(deliver::token_to_hex(&token), text.to_ascii_lowercase());
    }
}

/// A frame that is read is a message whose own frame is read as the same message.
pub fn layer(data: &[u8]) {
    fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(payload: &[u8]) {
        let Ok(message) = layer::decode::<T>(payload) else { return };
        let frame = layer::encode(&message).expect("a message that was read can be written");
        assert_eq!(layer::decode::<T>(&frame[4..]).expect("and read again"), message);
    }
    check::<Message>(data);
    check::<Reply>(data);
    let mut stream = data;
    while let Ok(message) = layer::read::<Message>(&mut stream) {
        std::hint::black_box(message);
    }
}

/// JSON that is read as a body of the service is one that is written and read again as the same.
pub fn json(data: &[u8]) {
    fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(body: &[u8]) {
        let Ok(read) = serde_json::from_slice::<T>(body) else { return };
        let written = serde_json::to_vec(&read).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<T>(&written).expect("and read again"), read);
    }
    check::<SessionRequest>(data);
    check::<Event>(data);
    check::<FilterReply>(data);
    check::<ErrorReply>(data);
}

//! What intproxy, agent and layer say to each other.

use mirrord_protocol::{
    control::{ErrorReply, Event, FilterReply, SessionRequest},
    deliver::{self, HELLO_LEN, Hello},
    layer::{self, Message, Reply},
    passing::{Answer, Ask, Malformed},
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

/// Messages beside passed sockets: each is read at its last byte, not before, and is the same when it is written and read again.
pub fn passing(data: &[u8]) {
    fn check<T: PartialEq + std::fmt::Debug>(
        data: &[u8],
        decode: impl Fn(&mut &[u8]) -> Result<Option<T>, Malformed>,
        encode: impl Fn(&T) -> Vec<u8>,
    ) {
        let mut rest = data;
        loop {
            let before = rest;
            match decode(&mut rest) {
                Ok(Some(message)) => {
                    let taken = before.len() - rest.len();
                    assert!(taken > 0);
                    for at in 0..taken {
                        assert_eq!(decode(&mut &before[..at]), Ok(None), "after {at} bytes of {taken}");
                    }
                    assert_eq!(decode(&mut encode(&message).as_slice()), Ok(Some(message)));
                }
                Ok(None) => {
                    // What waits for more has a bound.
                    assert!(before.len() < 512 && rest.len() == before.len());
                    return;
                }
                Err(Malformed) => return,
            }
        }
    }
    let asked = |ask: &Ask| {
        let mut bytes = Vec::new();
        ask.encode(&mut bytes);
        bytes
    };
    check(data, Ask::decode, asked);
    check(data, Answer::decode, Answer::encode);
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

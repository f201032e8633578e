//! The targets by name.

mod carrier;
mod control;
mod filter;
mod http1;
mod memory;
mod program;
mod relay;
mod user;
mod wire;

pub type Target = fn(&[u8]);

pub const ALL: &[(&str, Target)] = &[
    ("body", http1::body),
    ("carrier", carrier::carrier),
    ("client_hello", wire::client_hello),
    ("config", user::config),
    ("control", control::json),
    ("detect", http1::detect),
    ("edits", http1::edits),
    ("elf", program::elf),
    ("grammar", user::target),
    ("hello", control::hello),
    ("http2", wire::greeting),
    ("layer", control::layer),
    ("passing", control::passing),
    ("program", program::script),
    ("relay", relay::relay),
    ("request", http1::request),
    ("response", http1::response),
    ("said", filter::said),
    ("state", filter::state),
];

pub fn find(name: &str) -> Option<Target> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}

/// Takes some bytes of the input for choices; what is missing is 0.
fn choices<const N: usize>(data: &[u8]) -> ([u8; N], &[u8]) {
    let mut chosen = [0; N];
    let taken = data.len().min(N);
    chosen[..taken].copy_from_slice(&data[..taken]);
    (chosen, &data[taken..])
}

/// Cuts bytes in pieces: 0 leaves them whole, 1 makes single bytes, anything else is a seed.
fn cut(bytes: &[u8], seed: u8) -> Vec<&[u8]> {
    match seed {
        _ if bytes.is_empty() => Vec::new(),
        0 => vec![bytes],
        1 => bytes.chunks(1).collect(),
        _ => {
            let (mut state, mut rest, mut pieces) = (u32::from(seed), bytes, Vec::new());
            while !rest.is_empty() {
                state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                // Mostly short pieces, sometimes a long one.
                let length = (state >> 16) as usize % if state >> 28 == 0 { 200 } else { 9 } + 1;
                let (piece, after) = rest.split_at(length.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces
        }
    }
}

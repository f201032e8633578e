//! Every committed input, and a few hundred damaged copies of each, go through their target: what plain `cargo test` can
//! do on any machine. Searching is `scripts/fuzz.sh`.

use std::{fs, path::Path};

use mirrord_fuzz::targets;

#[test]
fn seeds_find_nothing() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for (name, target) in targets::ALL {
        let files: Vec<_> = fs::read_dir(seeds.join(name)).unwrap_or_else(|_| panic!("{name} has no seeds")).flatten().collect();
        assert!(!files.is_empty(), "{name} has no seeds");
        for file in files {
            let bytes = fs::read(file.path()).unwrap();
            target(&bytes);
            let mut state = 1u64;
            for _ in 0..200 {
                let mut damaged = bytes.clone();
                for _ in 0..3 {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    if damaged.is_empty() {
                        break;
                    }
                    let at = (state >> 40) as usize % damaged.len();
                    match state >> 33 & 3 {
                        0 => drop(damaged.remove(at)),
                        1 => damaged[at] ^= 1 << (state >> 36 & 7),
                        2 => damaged.insert(at, (state >> 16) as u8),
                        _ => damaged.truncate(at),
                    }
                }
                target(&damaged);
            }
        }
    }
}

//! A session without an agent, for measurements: prints the layer's address and answers until standard input ends.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Read;

use mirrord_intproxy::layers::{Layers, PortChange};

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let layers = Layers::bind().unwrap();
        println!("{}", layers.address());
        let (changes, mut asked) = tokio::sync::mpsc::channel(8);
        let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        let session = async {
            while let Some(change) = asked.recv().await {
                match change {
                    PortChange::Opened { done, .. } => drop(done.send(Ok(()))),
                    PortChange::Closed { done, .. } => drop(done.send(())),
                }
            }
        };
        tokio::select! { () = layers.run(changes) => {}, () = session => {}, _ = ended => {} }
    });
}
